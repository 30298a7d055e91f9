"""The live page's figures are those of the metrics, over the last seconds; its charts forget in time."""

from __future__ import annotations

from typing import Any

import pytest
from prometheus_client import Gauge, generate_latest

from stream_infer.config import BUILTIN_MODELS, BUILTIN_STREAMS
from stream_infer.metrics import Metrics
from stream_infer.schemas import DeadLetter, Record, Result, Stages
from stream_infer.web.live import read_registry
from stream_infer.web.looks import HISTORY, WINDOW, Looks
from stream_infer.web.probe import parse_samples

RECORD = Record("requests.classify", 0, 7, 1_000, None, b"x")


@pytest.fixture
def metrics() -> Metrics:
    return Metrics(BUILTIN_STREAMS, BUILTIN_MODELS)


def result(seconds: float, *, late: bool = False) -> Result:
    return Result(RECORD, "i", "classify", {}, "sentiment", Stages(total=seconds), late)


def stream(seen: dict[str, Any], name: str = "classify") -> dict[str, Any]:
    return next(each for each in seen["streams"] if each["name"] == name)


def test_the_registry_is_read_as_prometheus_would_read_it(metrics: Metrics) -> None:
    metrics.streams["classify"].received.inc(3)
    exposed, read = parse_samples(generate_latest(metrics.registry).decode()), read_registry(metrics.registry)

    assert {key for key in exposed if not key[0].endswith("_created")} == set(read)
    # What the process itself takes changes from one look to the next.
    ours = {key: value for key, value in read.items() if key[0].startswith("stream_infer_")}
    assert {key: exposed[key] for key in ours} == ours


def test_rates_percentiles_and_shares_are_of_the_window(metrics: Metrics) -> None:
    looks = Looks()
    metrics.streams["classify"].count_published([result(50.0)] * 100, 0.0)
    looks.add(read_registry(metrics.registry), 0.0)
    metrics.streams["classify"].received.inc(40)
    metrics.streams["classify"].count_published([result(0.04)] * 9 + [result(0.9, late=True)], 0.0)

    seen = stream(looks.add(read_registry(metrics.registry), 5.0))

    assert (8.0, 2.0, 0.1, 0.5) == tuple(
        seen[name] for name in ("received", "results", "late_share", "budget")
    )
    assert 0.02 < seen["p50"] < 0.05
    assert 0.5 < seen["p95"] < seen["p99"] <= 1.0


def test_what_is_not_known_is_none(metrics: Metrics) -> None:
    seen = Looks().add(read_registry(metrics.registry), 0.0)

    assert {None} == {stream(seen)[name] for name in ("p50", "p95", "p99", "late_share")}
    assert seen["cache"]["hit_share"] is None
    assert {None} == {
        seen["models"][0][name] for name in ("revision", "agreement", "texts_a_batch", "batch_seconds")
    }
    assert ([], []) == (seen["dead_letter_reasons"], seen["quality"])


def test_dead_letters_are_counted_by_reason_the_most_frequent_first(metrics: Metrics) -> None:
    looks = Looks()
    looks.add(read_registry(metrics.registry), 0.0)
    for reason, count in (("malformed", 1), ("model_failed", 3)):
        letter = DeadLetter(RECORD, "i", "classify", reason, "E: e", "engine")
        metrics.streams["classify"].count_published([letter] * count, 0.0)

    seen = looks.add(read_registry(metrics.registry), 2.0)

    assert [
        {"stream": "classify", "reason": "model_failed", "total": 3.0, "rate": 1.5},
        {"stream": "classify", "reason": "malformed", "total": 1.0, "rate": 0.5},
    ] == seen["dead_letter_reasons"]


def test_a_models_batches_and_what_it_is(metrics: Metrics) -> None:
    looks = Looks()
    looks.add(read_registry(metrics.registry), 0.0)
    metrics.read("model_info", lambda: {("encoder", "r1", "int8", "cpu"): 1.0})
    metrics.read("model_agreement_ratio", lambda: {("encoder",): 0.99})
    for items in (10, 30):
        metrics.models["encoder"].count_batch(items, items * 10, 0.5)

    seen = looks.add(read_registry(metrics.registry), 2.0)["models"][0]

    expected = {"name": "encoder", "revision": "r1", "precision": "int8", "device": "cpu", "agreement": 0.99}
    assert expected == {name: seen[name] for name in expected}
    assert (1.0, 20.0, 0.5, 0.5) == tuple(
        seen[name] for name in ("batches", "texts_a_batch", "batch_seconds", "busy")
    )


def test_quality_is_there_when_it_is_measured(metrics: Metrics) -> None:
    for name, value in (("pairs", 412), ("accuracy_ratio", 0.78), ("macro_f1_ratio", 0.73)):
        gauge = Gauge(f"stream_infer_quality_{name}", "", ["model"], registry=metrics.registry)
        gauge.labels("sentiment").set(value)

    seen = Looks().add(read_registry(metrics.registry), 0.0)

    assert [{"model": "sentiment", "pairs": 412, "accuracy": 0.78, "macro_f1": 0.73}] == seen["quality"]


def test_old_looks_and_old_points_are_forgotten(metrics: Metrics) -> None:
    looks = Looks()
    received = metrics.streams["classify"].received
    for second in range(int(HISTORY + 3 * WINDOW)):
        received.inc(second)
        seen = looks.add(read_registry(metrics.registry), float(second))

    last = HISTORY + 3 * WINDOW - 1
    assert (last - HISTORY, last) == (looks.points[0]["t"], looks.points[-1]["t"])
    assert last - (WINDOW - 1) / 2 == pytest.approx(stream(seen)["received"])


def test_after_a_pause_the_figures_are_of_the_time_since_the_look_before_it(metrics: Metrics) -> None:
    """Looks are seldom while nobody watches: what is older than the window still has to serve."""
    looks = Looks()
    looks.add(read_registry(metrics.registry), 0.0)
    metrics.streams["classify"].received.inc(60)

    assert 2.0 == stream(looks.add(read_registry(metrics.registry), 30.0))["received"]
