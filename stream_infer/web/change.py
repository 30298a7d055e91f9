"""What workers did between two looks at their metrics; pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise

from stream_infer.web.probe import Samples

PREFIX = "stream_infer_"

_Grown = tuple[Mapping[str, str], float, float]
"""The labels of a sample, and its values before and after."""


class Change:
    """The samples of some workers at two moments, `seconds` apart, added up over the workers.

    A worker that was started anew in between counts from zero.
    """

    def __init__(self, looks: Sequence[tuple[Samples, Samples]], seconds: float) -> None:
        self._seconds = seconds
        self._by_name: defaultdict[str, list[_Grown]] = defaultdict(list)
        for before, after in looks:
            for (name, labels), value in after.items():
                self._by_name[name].append((dict(labels), before.get((name, labels), 0.0), value))

    def values(self, name: str, label: str) -> list[str]:
        """Return the values that a label of a metric has, in order."""
        return sorted({labels[label] for labels in self.children(name) if label in labels})

    def children(self, name: str, **labels: str) -> list[Mapping[str, str]]:
        """Return all the labels of each sample of a metric that has these."""
        return [found for found, *_ in self._matching(name, labels)]

    def rate(self, name: str, **labels: str) -> float:
        """Return by how much a counter grew in a second."""
        return self.growth(name, **labels) / self._seconds

    def growth(self, name: str, **labels: str) -> float:
        """Return by how much a counter grew."""
        return sum(_growth(before, after) for _, before, after in self._matching(name, labels))

    def total(self, name: str, **labels: str) -> float:
        """Return what a gauge says now, added up."""
        return sum(after for *_, after in self._matching(name, labels))

    def most(self, name: str, **labels: str) -> float:
        """Return the greatest that a gauge says now."""
        return max((after for *_, after in self._matching(name, labels)), default=0.0)

    def mean(self, name: str, **labels: str) -> float | None:
        """Return the mean of what a histogram took in meanwhile, or None where that is nothing."""
        count = self.growth(f"{name}_count", **labels)
        return self.growth(f"{name}_sum", **labels) / count if count else None

    def quantile(self, name: str, share: float, **labels: str) -> float | None:
        """Return the value that a share of what a histogram took in meanwhile does not exceed, or None.

        Within a bucket values are taken to lie evenly, as Prometheus's `histogram_quantile` does it; what
        is above the last bound is taken for that bound.
        """
        buckets = self._buckets(name, labels)
        rank = share * buckets[-1][1] if buckets else 0.0
        if not rank:
            return None
        for (low, below), (high, up_to) in pairwise([(0.0, 0.0), *buckets]):
            if up_to >= rank:
                return low if high == float("inf") else low + (high - low) * (rank - below) / (up_to - below)
        return None

    def _buckets(self, name: str, labels: Mapping[str, str]) -> list[tuple[float, float]]:
        """Return each bucket's bound, and how much was at or below it."""
        grown: defaultdict[float, float] = defaultdict(float)
        for found, before, after in self._matching(f"{name}_bucket", labels):
            grown[float(found["le"])] += _growth(before, after)
        return sorted(grown.items())

    def _matching(self, name: str, labels: Mapping[str, str]) -> Iterator[_Grown]:
        for grown in self._by_name.get(PREFIX + name, ()):
            if labels.items() <= grown[0].items():
                yield grown


def _growth(before: float, after: float) -> float:
    return after - before if after >= before else after
