"""Back-pressure: which partitions to stop fetching, so that memory is bounded and shared."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from stream_infer.schemas import Partition, Record

_BYTES_PER_TOKEN = 3
_RESUME = 0.75


@dataclass(frozen=True, slots=True)
class Load:
    """What is buffered, from fetch to publication; `tokens` are estimated before tokenising."""

    records: int
    tokens: int


@dataclass(frozen=True, slots=True)
class Change:
    """What to tell the consumer; empty when nothing changes."""

    pause: frozenset[Partition]
    resume: frozenset[Partition]


def estimate_tokens(record: Record) -> int:
    """Return about how many tokens the record holds, rather too many than too few.

    Key and headers count like the value: they take the same memory until the record is published.
    """
    return record.size // _BYTES_PER_TOKEN + 1


class Pressure:
    """Decides who is paused.

    Up to half the room is for whoever needs it. Beyond that a partition is paused once it holds its
    equal share of that half, so the busy ones leave the other half to the quiet ones. What is
    buffered never exceeds the limits by more than one fetch of each partition. A partition is
    resumed below three quarters of what paused it.
    """

    __slots__ = ("_max_records", "_max_tokens", "paused")

    def __init__(self, max_records: int, max_tokens: int) -> None:
        self._max_records = max_records
        self._max_tokens = max_tokens
        self.paused: frozenset[Partition] = frozenset()

    def change(self, loads: Mapping[Partition, Load]) -> Change:
        """Return who is to be paused and resumed now; `loads` names every assigned partition."""
        level = self._level(loads)
        paused = frozenset(
            partition
            for partition, load in loads.items()
            if self._is_over(level, load, len(loads), _RESUME if partition in self.paused else 1.0)
        )
        change = Change(paused - self.paused, (self.paused & loads.keys()) - paused)
        self.paused = paused
        return change

    def _level(self, loads: Mapping[Partition, Load]) -> float:
        """Return how full the common half is, by records or tokens, whichever is fuller."""
        records = sum(load.records for load in loads.values())
        tokens = sum(load.tokens for load in loads.values())
        return self._filled(records, tokens)

    def _is_over(self, level: float, load: Load, partitions: int, threshold: float) -> bool:
        share = self._filled(load.records, load.tokens) * partitions
        return level >= threshold and share >= threshold

    def _filled(self, records: int, tokens: int) -> float:
        return 2 * max(records / self._max_records, tokens / self._max_tokens)
