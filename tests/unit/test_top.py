"""What workers did between two looks, and how a terminal shows it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import ClassVar

import pytest
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from rich.console import Console

from stream_infer.config_loading import load_settings
from stream_infer.metrics import Metrics
from stream_infer.top.view import page
from stream_infer.web.change import PREFIX, Change
from stream_infer.web.figures import figures
from stream_infer.web.probe import Samples, parse_samples


class Worker:
    """A worker's metrics, as far as a test needs them."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.results = Counter("stream_infer_results", "", ["stream"], registry=self.registry)
        self.lag = Gauge("stream_infer_lag_seconds", "", ["stream"], registry=self.registry)
        self.latency = Histogram(
            "stream_infer_latency_seconds",
            "",
            ["stream", "stage"],
            buckets=(0.1, 0.2, 0.4),
            registry=self.registry,
        )

    def look(self) -> Samples:
        """Return what its endpoint says now."""
        return parse_samples(generate_latest(self.registry).decode())


def test_rates_and_gauges_are_taken_over_all_workers() -> None:
    first, second = Worker(), Worker()
    first.results.labels("a").inc(100)
    before = [first.look(), second.look()]
    first.results.labels("a").inc(10)
    second.results.labels("a").inc(20)
    second.results.labels("b").inc(5)
    first.lag.labels("a").set(3)
    second.lag.labels("a").set(4)

    change = Change(list(zip(before, [first.look(), second.look()], strict=True)), seconds=2.0)

    assert ["a", "b"] == change.values("results_total", "stream")
    assert (15.0, 2.5) == (change.rate("results_total", stream="a"), change.rate("results_total", stream="b"))
    assert (7.0, 4.0) == (change.total("lag_seconds", stream="a"), change.most("lag_seconds", stream="a"))


def test_a_worker_that_began_anew_counts_from_zero() -> None:
    old, new = Worker(), Worker()
    old.results.labels("a").inc(100)
    new.results.labels("a").inc(7)

    assert 7.0 == Change([(old.look(), new.look())], seconds=1.0).growth("results_total", stream="a")


def test_quantiles_are_of_what_came_meanwhile() -> None:
    worker = Worker()
    latency = worker.latency.labels("a", "total")
    latency.observe(9.0)
    before = worker.look()
    for value in (0.05, 0.05, 0.15, 0.3):
        latency.observe(value)
    worker.latency.labels("a", "engine").observe(5.0)

    change = Change([(before, worker.look())], seconds=1.0)

    assert pytest.approx(0.1) == change.quantile("latency_seconds", 0.5, stream="a", stage="total")
    assert pytest.approx(0.3) == change.quantile("latency_seconds", 0.875, stream="a", stage="total")
    assert pytest.approx(0.55 / 4) == change.mean("latency_seconds", stream="a", stage="total")


def test_what_is_above_the_last_bound_is_taken_for_it_and_nothing_has_no_quantile() -> None:
    worker = Worker()
    before = worker.look()
    worker.latency.labels("a", "total").observe(9.0)

    change = Change([(before, worker.look())], seconds=1.0)

    assert 0.4 == change.quantile("latency_seconds", 0.99, stream="a", stage="total")
    assert change.quantile("latency_seconds", 0.5, stream="b", stage="total") is None
    assert change.mean("latency_seconds", stream="b") is None


class Recorder(Change):
    """Remembers which metrics it was asked for."""

    asked: ClassVar[set[str]] = set()

    def _matching(
        self, name: str, labels: Mapping[str, str]
    ) -> Iterator[tuple[Mapping[str, str], float, float]]:
        self.asked.add(f"{PREFIX}{name}")
        return super()._matching(name, labels)


@pytest.mark.parametrize("look", [lambda change: page({}, change), figures], ids=["top", "live page"])
def test_the_page_asks_only_for_what_workers_export(look: Callable[[Change], object]) -> None:
    settings = load_settings()
    metrics = Metrics(settings.streams, settings.used_models)
    metrics.read("model_info", lambda: {("encoder", "1", "int8", "cpu"): 1.0})
    metrics.read("model_agreement_ratio", lambda: {("encoder",): 1.0})
    samples = parse_samples(generate_latest(metrics.registry).decode())
    Recorder.asked.clear()

    look(Recorder([(samples, samples)], seconds=1.0))

    assert len(Recorder.asked) > 15
    assert not Recorder.asked - {name for name, _ in samples} - {"stream_infer_quality_pairs"}


def test_the_page_shows_a_real_workers_metrics() -> None:
    settings = load_settings()
    metrics = Metrics(settings.streams, settings.used_models)
    before = parse_samples(generate_latest(metrics.registry).decode())
    metrics.streams["classify"].received.inc(50)
    after = parse_samples(generate_latest(metrics.registry).decode())
    console = Console(width=140, record=True)

    console.print(page({"http://worker": "ready"}, Change([(before, after)], seconds=2.0)))

    text = console.export_text()
    for shown in ("http://worker", "ready", "classify", "translate", "answer", "25.0", "500", "encoder"):
        assert shown in text
