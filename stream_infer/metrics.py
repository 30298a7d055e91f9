"""The worker's metrics, in Prometheus's conventions: base units, stable names, bounded labels.

Labels come from the settings and from fixed lists, never from events. Their children exist from the
start, at zero, so the first increase is seen and no event looks one up.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector

from stream_infer.config import ModelSettings, StreamSettings
from stream_infer.counting import Distribution, Labels, ModelMetrics, StreamMetrics
from stream_infer.errors import REASONS, EngineError

STAGES: Final = ("bus", "queue", "batch", "engine", "publish", "total")
ENDINGS: Final = ("committed", "aborted", "lost")
TIERS: Final = ("memory", "shared")

_PREFIX: Final = "stream_infer_"
_FAILURES: Final = tuple(error.reason for error in EngineError.__subclasses__())
_LATENCY_BUCKETS: Final = (
    *(0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5),
    *(1.0, 2.0, 5.0, 10.0, 30.0, 60.0),
)
_SECONDS_BUCKETS: Final = _LATENCY_BUCKETS[:-2]
_ITEM_BUCKETS: Final = (1, 2, 4, 8, 16, 32, 64, 128, 256)
_TOKEN_BUCKETS: Final = (16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192)

Read = Callable[[], Mapping[Labels, float]]


class _Latency(Collector):
    """The times of results by stream and stage."""

    def __init__(self, streams: Iterable[str]) -> None:
        self.children = {
            labels: Distribution(_LATENCY_BUCKETS) for labels in product(sorted(streams), STAGES)
        }

    def collect(self) -> Iterable[HistogramMetricFamily]:
        """Return the histogram."""
        family = HistogramMetricFamily(
            f"{_PREFIX}latency_seconds",
            "Time of a result by stage: bus (producer's timestamp to arrival), queue (until tokenised), "
            "batch (until its batch left), engine (its batch's run), publish (from outcome to commit, "
            "waiting for its turn included), total (producer's timestamp to commit).",
            labels=["stream", "stage"],
        )
        for labels, distribution in self.children.items():
            distribution.add_to(family, labels)
        yield family


@dataclass(frozen=True, slots=True)
class Held:
    """A metric whose numbers other parts hold: here is only its name and what it means.

    Unless `begins_empty`, each of its children is 0 until there is something to read.
    """

    name: str
    documentation: str
    labels: tuple[str, ...] = ()
    is_counter: bool = False
    begins_empty: bool = False


HELD: Final = (
    Held("ready", "1 while the worker is ready, as /ready says, otherwise 0."),
    Held("assigned_partitions", "Input partitions that the group gave to this worker.", ("stream",)),
    Held("in_flight_records", "Records fetched and not yet committed.", ("stream",)),
    Held("buffered_tokens", "About how many tokens the records in flight hold, by their bytes.", ("stream",)),
    Held(
        "lag_records",
        "Records of this worker's partitions that are not yet committed: those in flight, and those not "
        "fetched, as of the last fetch.",
        ("stream",),
    ),
    Held(
        "lag_tokens",
        "About how many tokens the lag holds, what is not fetched being taken to be as long as what is in "
        "flight.",
        ("stream",),
    ),
    Held(
        "lag_seconds",
        "Age of the oldest record in flight, by its timestamp, which is older than what is not fetched; 0 "
        "while none is in flight.",
        ("stream",),
    ),
    Held("latency_budget_seconds", "The latency budget in the settings.", ("stream",)),
    Held("rebalances", "Times the group dealt its partitions out, joining included.", is_counter=True),
    Held("queue_tokens", "Tokens that wait for a batch.", ("model",)),
    Held("batch_failures", "Batches that came back without outputs.", ("model", "reason"), is_counter=True),
    Held(
        "batch_splits",
        "Failed batches that were halved and run again: smaller where memory ran out, and by bisection to "
        "find the record at fault.",
        ("model", "reason"),
        is_counter=True,
    ),
    Held(
        "replica_resident_bytes",
        "Resident memory of the processes that run batches; process_resident_memory_bytes has none of it.",
    ),
    Held(
        "replica_restarts", "Replicas that died, or hung and were killed, and were replaced.", is_counter=True
    ),
    Held(
        "model_info",
        "Models that are loaded; the value is always 1.",
        ("model", "revision", "precision", "device"),
        begins_empty=True,
    ),
    Held(
        "model_agreement_ratio",
        "Share of the packaged sample on which a loaded model and its full-precision form agree.",
        ("model",),
        begins_empty=True,
    ),
    Held("model_agreement_floor_ratio", "The least agreement that the settings allow.", ("model",)),
    Held(
        "cache_hits",
        "Look-ups that the cache answered, by who computed it: this worker (memory) or another (shared).",
        ("tier",),
        is_counter=True,
    ),
    Held("cache_misses", "Look-ups that a model had to answer.", is_counter=True),
    Held("cache_joins", "Look-ups that joined equal work in flight.", is_counter=True),
    Held("cache_evictions", "Cache entries that gave way to newer ones.", is_counter=True),
    Held("cache_entries", "Entries in the cache."),
    Held("cache_bytes", "Memory that the cache takes."),
    Held("index_passages", "Passages that can be answered from."),
    Held(
        "quality_pairs",
        "Results with feedback, within the window of quality, that the figures of a model's quality rest on.",
        ("model",),
        begins_empty=True,
    ),
    Held("quality_accuracy_ratio", "Share of them whose label was right.", ("model",), begins_empty=True),
    Held("quality_macro_f1_ratio", "Mean of the F1 of their labels.", ("model",), begins_empty=True),
    Held(
        "quality_precision_ratio",
        "Share of them that were right where the model gave this label.",
        ("model", "label"),
        begins_empty=True,
    ),
    Held(
        "quality_recall_ratio",
        "Share of them that got this label where it was the right one.",
        ("model", "label"),
        begins_empty=True,
    ),
    Held(
        "quality_f1_ratio",
        "Harmonic mean of a label's precision and recall.",
        ("model", "label"),
        begins_empty=True,
    ),
    Held("trace_spans_dropped", "Spans that did not reach the receiver of traces.", is_counter=True),
)


class _Reading(Collector):
    """Reads a held metric when Prometheus asks."""

    def __init__(self, held: Held, children: Iterable[Labels]) -> None:
        self.read: Read = dict
        self._held = held
        self._zeros = dict.fromkeys(children, 0.0)

    def collect(self) -> Iterable[CounterMetricFamily | GaugeMetricFamily]:
        """Return the values of now."""
        held = self._held
        kind = CounterMetricFamily if held.is_counter else GaugeMetricFamily
        family = kind(_PREFIX + held.name, held.documentation, labels=held.labels)
        for labels, value in {**self._zeros, **self.read()}.items():
            family.add_metric(labels, value)
        yield family


class Metrics:
    """Every metric of one worker and its process, on a registry of its own.

    `streams` and `models` count as events and batches pass; what other parts hold is fetched from
    where `read` says.
    """

    def __init__(self, streams: Mapping[str, StreamSettings], models: Mapping[str, ModelSettings]) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        values = {"stream": sorted(streams), "model": sorted(models), "reason": _FAILURES, "tier": TIERS}
        self._readings = {held.name: _Reading(held, _children(held, values)) for held in HELD}
        for reading in self._readings.values():
            self.registry.register(reading)
        self.streams = self._count_streams(values["stream"])
        self.models = self._count_models(values["model"])
        self.read(
            "latency_budget_seconds",
            lambda: {(name,): each.latency_budget_ms / 1000 for name, each in streams.items()},
        )
        self.read(
            "model_agreement_floor_ratio",
            lambda: {(name,): each.min_agreement for name, each in models.items()},
        )

    def read(self, name: str, values: Read) -> None:
        """Say where a held metric's values come from, by the values of its labels."""
        self._readings[name].read = values

    def read_one(self, name: str, value: Callable[[], float]) -> None:
        """Say where the value of a held metric without labels comes from."""
        self.read(name, lambda: {(): value()})

    def _count_streams(self, names: Sequence[str]) -> dict[str, StreamMetrics]:
        received = self._counter("received", "Records fetched that are to be processed.", "stream")
        results = self._counter("results", "Results committed.", "stream")
        late = self._counter("late", "Results that came about after their deadline.", "stream")
        shed = self._counter(
            "shed", "Records not processed because they were late, or would have been.", "stream"
        )
        dead_letters = self._counter("dead_letters", "Dead letters committed.", "stream", "reason")
        transactions = self._counter(
            "transactions",
            "Transactions by how they ended; those of a partition that was taken away are lost.",
            "stream",
            "outcome",
        )
        duration = self._histogram(
            "transaction_seconds", "Time a committed transaction took.", "stream", _SECONDS_BUCKETS
        )
        latency = _Latency(names)
        self.registry.register(latency)
        return {
            name: StreamMetrics(
                received.labels(name),
                results.labels(name),
                late.labels(name),
                shed.labels(name),
                {reason: dead_letters.labels(name, reason) for reason in REASONS},
                {ending: transactions.labels(name, ending) for ending in ENDINGS},
                duration.labels(name),
                tuple(latency.children[name, stage] for stage in STAGES),
            )
            for name in names
        }

    def _count_models(self, names: Sequence[str]) -> dict[str, ModelMetrics]:
        items = self._histogram("batch_items", "Texts in a batch that passed.", "model", _ITEM_BUCKETS)
        tokens = self._histogram(
            "batch_tokens", "Tokens of the texts in a batch that passed.", "model", _TOKEN_BUCKETS
        )
        seconds = self._histogram(
            "batch_seconds", "Time a batch that passed took on its replica.", "model", _SECONDS_BUCKETS
        )
        engine_tokens = self._counter(
            "engine_tokens", "Tokens that models were given, padding and failed batches included.", "model"
        )
        return {
            name: ModelMetrics(
                items.labels(name), tokens.labels(name), seconds.labels(name), engine_tokens.labels(name)
            )
            for name in names
        }

    def _counter(self, name: str, documentation: str, *labels: str) -> Counter:
        return Counter(_PREFIX + name, documentation, labels, registry=self.registry)

    def _histogram(self, name: str, documentation: str, label: str, buckets: Sequence[float]) -> Histogram:
        return Histogram(_PREFIX + name, documentation, [label], buckets=buckets, registry=self.registry)


def _children(held: Held, values: Mapping[str, Sequence[str]]) -> Iterable[Labels]:
    return () if held.begins_empty else product(*(values[label] for label in held.labels))
