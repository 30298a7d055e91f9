"""What Prometheus is told: right counts, bounded labels, and names that README and deploy/ can rely on."""

import re
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import generate_latest
from prometheus_client.core import HistogramMetricFamily
from prometheus_client.parser import text_string_to_metric_families

from stream_infer.config import BUILTIN_MODELS, BUILTIN_STREAMS
from stream_infer.counting import Distribution
from stream_infer.demo.run import PASSAGES
from stream_infer.demo.view import LOOK_UPS
from stream_infer.errors import REASONS, OutcomeError
from stream_infer.metrics import ENDINGS, HELD, STAGES, TIERS, Held, Metrics
from stream_infer.schemas import DeadLetter, Outcome, Record, Result, Stages
from tests.unit.quality_records import LABELS, show_quality

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")

BOUNDED = {
    "stream": set(BUILTIN_STREAMS),
    "model": set(BUILTIN_MODELS),
    "label": set(LABELS),
    "reason": set(REASONS),
    "stage": set(STAGES),
    "outcome": set(ENDINGS),
    "tier": set(TIERS),
}
UNITS = {
    "pairs",
    "ratio",
    "seconds",
    "bytes",
    "tokens",
    "records",
    "items",
    "entries",
    "passages",
    "partitions",
}


@pytest.fixture
def metrics() -> Metrics:
    made = Metrics(BUILTIN_STREAMS, BUILTIN_MODELS)
    made.read("model_info", lambda: {("sentiment", "r1", "int8", "cpu"): 1})
    made.read("model_agreement_ratio", lambda: {("sentiment",): 0.99})
    show_quality(made)
    return made


def record(offset: int = 0) -> Record:
    return Record("requests.classify", 0, offset, 0, None, b"secret words")


def result(offset: int = 0, *, stages: Stages | None = None, late: bool = False, at: float = 0.0) -> Result:
    return Result(record(offset), str(offset), "classify", {}, "m", stages or Stages(), late, at)


def letter(reason: str) -> DeadLetter:
    return DeadLetter(record(), "secret id", "classify", reason, "secret error", "admit")


def value(metrics: Metrics, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(f"stream_infer_{name}", labels)


def declared(metrics: Metrics) -> dict[str, tuple[str, frozenset[str]]]:
    """Return the type and labels of each metric, by the name that its samples begin with."""
    return {
        family.name + ("_total" if family.type == "counter" else ""): (
            family.type,
            frozenset(label for sample in family.samples for label in sample.labels) - {"le"},
        )
        for family in metrics.registry.collect()
    }


def documented() -> dict[str, tuple[str, frozenset[str]]]:
    """Return what README's table says of each metric."""
    rows = re.findall(
        r"^\| `((?:stream_infer|process)_\w+)` \| (\w+) \| ([^|]*) \| [^|]+ \|$", README, re.MULTILINE
    )
    return {name: (kind, frozenset(re.findall(r"`(\w+)`", labels))) for name, kind, labels in rows}


def test_readme_describes_every_metric_and_no_other(metrics: Metrics) -> None:
    assert declared(metrics) == documented()


def test_names_follow_the_conventions(metrics: Metrics) -> None:
    """As promtool would say: units last, reserved suffixes only where they belong, help for each."""
    own = [each for each in metrics.registry.collect() if not each.name.startswith("process_")]
    for family in own:
        assert re.fullmatch(r"stream_infer_[a-z]+(_[a-z]+\d?)*", family.name)
        assert not family.name.endswith(("_total", "_count", "_sum", "_bucket", "_created"))
        assert family.documentation.endswith(".")
        if family.type == "gauge" and family.name not in {"stream_infer_ready", "stream_infer_model_info"}:
            assert family.name.rsplit("_", 1)[-1] in UNITS


def test_labels_are_bounded_before_the_first_event(metrics: Metrics) -> None:
    for family in metrics.registry.collect():
        if family.name == "stream_infer_model_info":
            continue
        assert family.samples, family.name
        for sample in family.samples:
            for label, text in sample.labels.items():
                assert label == "le" or text in BOUNDED[label], sample


def test_whatever_is_not_told_yet_is_zero_or_absent() -> None:
    metrics = Metrics(BUILTIN_STREAMS, BUILTIN_MODELS)
    assert 0.0 == value(metrics, "ready")
    assert 0.0 == value(metrics, "cache_hits_total", tier="shared")
    assert 0.0 == value(metrics, "dead_letters_total", stream="answer", reason="unknown_collection")
    assert value(metrics, "model_agreement_ratio", model="sentiment") is None


def test_what_settings_say_is_exported_beside_what_is_measured(metrics: Metrics) -> None:
    assert 0.5 == value(metrics, "latency_budget_seconds", stream="classify")
    assert 0.9 == value(metrics, "model_agreement_floor_ratio", model="sentiment")


def test_an_unknown_name_cannot_be_read_into(metrics: Metrics) -> None:
    with pytest.raises(KeyError):
        metrics.read_one("cache_byte", lambda: 1)


@pytest.mark.parametrize("held", HELD, ids=lambda held: held.name)
def test_what_other_parts_hold_is_read_at_each_scrape(metrics: Metrics, held: Held) -> None:
    """Every held metric, by its own labels, follows the number that it was told to read."""
    labels = dict.fromkeys(held.labels, "x")
    numbers = iter((3.0, 4.0))
    metrics.read(held.name, lambda: {tuple(labels.values()): next(numbers)})
    name = held.name + ("_total" if held.is_counter else "")
    assert 3.0 == value(metrics, name, **labels)
    assert 4.0 == value(metrics, name, **labels)


def test_a_commit_counts_results_and_dead_letters_apart(metrics: Metrics) -> None:
    stream = metrics.streams["classify"]
    outcomes: list[Outcome] = [
        result(0),
        letter("malformed"),
        result(1, late=True),
        letter("late"),
        letter("late"),
    ]
    stream.count_published(outcomes, 0.0)
    stream.count_commit(0.25)

    assert 2.0 == value(metrics, "results_total", stream="classify")
    assert 1.0 == value(metrics, "late_total", stream="classify")
    assert 2.0 == value(metrics, "shed_total", stream="classify")
    assert 1.0 == value(metrics, "dead_letters_total", stream="classify", reason="malformed")
    assert 2.0 == value(metrics, "dead_letters_total", stream="classify", reason="late")
    assert 1.0 == value(metrics, "transactions_total", stream="classify", outcome="committed")
    assert 0.25 == value(metrics, "transaction_seconds_sum", stream="classify")
    assert 0.0 == value(metrics, "results_total", stream="answer")


@pytest.mark.parametrize("reason", REASONS)
def test_every_reason_of_a_dead_letter_can_be_counted(metrics: Metrics, reason: str) -> None:
    metrics.streams["classify"].count_published([letter(reason)], 0.0)
    assert 1.0 == value(metrics, "dead_letters_total", stream="classify", reason=reason)


def test_the_reasons_are_those_of_the_error_tree() -> None:
    def leaves(error: type[OutcomeError]) -> Iterable[str]:
        if "reason" in vars(error):
            yield error.reason
        for child in error.__subclasses__():
            yield from leaves(child)

    assert {*leaves(OutcomeError), "internal"} == set(REASONS)
    named = re.search(r"Reasons of dead letters: (.+?)\. `topics/", README, re.DOTALL)
    assert named is not None
    assert sorted(REASONS) == sorted(re.findall(r"`(\w+)`", named[1]))


def test_stages_of_a_result_end_with_its_commit(metrics: Metrics) -> None:
    stages = Stages(bus=1.0, queue=0.25, batch=0.5, engine=2.0, total=4.0)
    metrics.streams["classify"].count_published([result(stages=stages, at=10.0)], 10.5)
    sums = {stage: value(metrics, "latency_seconds_sum", stream="classify", stage=stage) for stage in STAGES}
    assert {"bus": 1.0, "queue": 0.25, "batch": 0.5, "engine": 2.0, "publish": 0.5, "total": 4.5} == sums
    assert 0.0 == value(metrics, "latency_seconds_bucket", stream="classify", stage="total", le="2.0")
    assert 1.0 == value(metrics, "latency_seconds_bucket", stream="classify", stage="total", le="5.0")


def test_useful_tokens_can_be_told_from_those_that_were_run(metrics: Metrics) -> None:
    model = metrics.models["encoder"]
    model.engine_tokens.inc(100)
    model.engine_tokens.inc(100)
    model.count_batch(items=4, tokens=90, seconds=0.1)
    assert 200.0 == value(metrics, "engine_tokens_total", model="encoder")
    assert 90.0 == value(metrics, "batch_tokens_sum", model="encoder")
    assert 4.0 == value(metrics, "batch_items_sum", model="encoder")


@given(st.lists(st.floats(0.0, 8.0)))
def test_a_distribution_is_a_histogram(values: list[float]) -> None:
    """Each bucket holds what is at most its bound, as the exposition format wants it."""
    distribution = Distribution((1.0, 2.0, 4.0))
    distribution.observe(values[:3])
    distribution.observe(values[3:])
    family = HistogramMetricFamily("h", "Help.", labels=["a"])
    distribution.add_to(family, ("x",))
    samples = {(sample.name, sample.labels.get("le")): sample.value for sample in family.samples}
    for bound in (1.0, 2.0, 4.0):
        assert sum(each <= bound for each in values) == samples["h_bucket", str(bound)]
    assert len(values) == samples["h_bucket", "+Inf"] == samples["h_count", None]
    assert pytest.approx(sum(values)) == samples["h_sum", None]


def test_the_exposition_can_be_parsed_and_holds_no_text_of_events(metrics: Metrics) -> None:
    metrics.streams["classify"].count_published([result(), letter("malformed")], 0.0)
    page = generate_latest(metrics.registry).decode()
    families = {
        family.name: family for family in text_string_to_metric_families(page) if family.type != "unknown"
    }
    for family in metrics.registry.collect():
        assert family.type == families[family.name].type
    assert "secret" not in page


def test_what_the_demo_shows_exists(metrics: Metrics) -> None:
    samples = {sample.name for family in metrics.registry.collect() for sample in family.samples}
    assert {PASSAGES, *LOOK_UPS} <= samples


@pytest.mark.skipif(shutil.which("promtool") is None, reason="Prometheus is not installed")
def test_promtool_finds_nothing_to_say(metrics: Metrics) -> None:
    page = generate_latest(metrics.registry)
    done = subprocess.run(["promtool", "check", "metrics"], input=page, capture_output=True, check=False)  # noqa: S607 - wherever it is installed
    assert (0, b"", b"") == (done.returncode, done.stdout, done.stderr)
