"""What is counted of streams and models as events and batches pass."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, repeat

from prometheus_client import Counter, Histogram
from prometheus_client.core import HistogramMetricFamily

from stream_infer.errors import LateError
from stream_infer.schemas import DeadLetter, Outcome, Result

Labels = tuple[str, ...]


class Distribution:
    """How many values fell into each bucket.

    It takes six values for each event, so it does without the lock of the library's histogram and
    takes many at once: it is filled and read in the event loop only.
    """

    __slots__ = ("_bounds", "_counts", "_sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0

    def observe(self, values: Sequence[float]) -> None:
        """Count values; one on a bound belongs below it."""
        for bucket in map(bisect_left, repeat(self._bounds), values):
            self._counts[bucket] += 1
        self._sum += sum(values)

    def add_to(self, family: HistogramMetricFamily, labels: Labels) -> None:
        """Add the buckets, each with all those below it, as the exposition has them."""
        names = [*map(str, self._bounds), "+Inf"]
        buckets = list(zip(names, accumulate(self._counts), strict=True))
        family.add_metric(labels, buckets, self._sum)


@dataclass(frozen=True, slots=True)
class StreamMetrics:
    """What is counted of one stream."""

    received: Counter
    results: Counter
    late: Counter
    shed: Counter
    dead_letters: Mapping[str, Counter]
    transactions: Mapping[str, Counter]
    transaction_seconds: Histogram
    stages: tuple[Distribution, ...]
    """In the order of `STAGES`."""

    def count_published(self, outcomes: Sequence[Outcome], now: float) -> None:
        """Count outcomes that were committed at `now`, and where the time of results went."""
        results = [outcome for outcome in outcomes if isinstance(outcome, Result)]
        self.results.inc(len(results))
        self.late.inc(sum(result.late for result in results))
        self._observe(results, now)
        for outcome in outcomes:
            if isinstance(outcome, DeadLetter):
                self._count_dead_letter(outcome)

    def count_commit(self, seconds: float) -> None:
        """Count a committed transaction and how long it took."""
        self.transactions["committed"].inc()
        self.transaction_seconds.observe(seconds)

    def _observe(self, results: Sequence[Result], now: float) -> None:
        stages = [result.stages for result in results]
        publish = [now - result.finished for result in results]
        seconds = (
            [each.bus for each in stages],
            [each.queue for each in stages],
            [each.batch for each in stages],
            [each.engine for each in stages],
            publish,
            [each.total + last for each, last in zip(stages, publish, strict=True)],
        )
        for distribution, values in zip(self.stages, seconds, strict=True):
            distribution.observe(values)

    def _count_dead_letter(self, letter: DeadLetter) -> None:
        self.dead_letters[letter.reason].inc()
        if letter.reason == LateError.reason:
            self.shed.inc()


@dataclass(frozen=True, slots=True)
class ModelMetrics:
    """What is counted of one model's batches."""

    items: Histogram
    tokens: Histogram
    seconds: Histogram
    engine_tokens: Counter

    def count_batch(self, items: int, tokens: int, seconds: float) -> None:
        """Count a batch that came back with outputs; `tokens` are those of its texts."""
        self.items.observe(items)
        self.tokens.observe(tokens)
        self.seconds.observe(seconds)
