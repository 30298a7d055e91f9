"""What workers did between two looks at their metrics; pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import pairwise

from stream_infer.web.probe import Samples

PREFIX = "stream_infer_"


class Change:
    """The samples of some workers at two moments, `seconds` apart, added up over the workers.

    A worker that was started anew in between counts from zero.
    """

    def __init__(self, looks: Sequence[tuple[Samples, Samples]], seconds: float) -> None:
        self._looks = looks
        self._seconds = seconds

    def values(self, name: str, label: str) -> list[str]:
        """Return the values that a label of a metric has, in order."""
        found = (dict(labels).get(label) for each, labels, *_ in self._samples() if each == PREFIX + name)
        return sorted({value for value in found if value is not None})

    def rate(self, name: str, **labels: str) -> float:
        """Return by how much a counter grew in a second."""
        return self.growth(name, **labels) / self._seconds

    def growth(self, name: str, **labels: str) -> float:
        """Return by how much a counter grew."""
        return sum(_growth(before, after) for before, after in self._matching(name, labels))

    def total(self, name: str, **labels: str) -> float:
        """Return what a gauge says now, added up."""
        return sum(after for _, after in self._matching(name, labels))

    def most(self, name: str, **labels: str) -> float:
        """Return the greatest that a gauge says now."""
        return max((after for _, after in self._matching(name, labels)), default=0.0)

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

    def _buckets(self, name: str, labels: dict[str, str]) -> list[tuple[float, float]]:
        """Return each bucket's bound, and how much was at or below it."""
        grown: defaultdict[float, float] = defaultdict(float)
        for each, found, before, after in self._samples():
            if each == f"{PREFIX}{name}_bucket" and labels.items() <= dict(found).items():
                grown[float(dict(found)["le"])] += _growth(before, after)
        return sorted(grown.items())

    def _matching(self, name: str, labels: dict[str, str]) -> Iterator[tuple[float, float]]:
        for each, found, before, after in self._samples():
            if each == PREFIX + name and labels.items() <= dict(found).items():
                yield before, after

    def _samples(self) -> Iterator[tuple[str, frozenset[tuple[str, str]], float, float]]:
        for before, after in self._looks:
            for (name, labels), value in after.items():
                yield name, labels, before.get((name, labels), 0.0), value


def _growth(before: float, after: float) -> float:
    return after - before if after >= before else after
