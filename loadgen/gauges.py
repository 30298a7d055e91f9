"""What a worker held during a run, look by look, and whether its memory is flat; without I/O."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, linear_regression
from typing import Final

Samples = dict[str, float]
"""Values by name and labels, in the syntax of the exposition format."""

WATCHED: Final = (
    *("lag_records", "lag_seconds", "in_flight_records", "queue_tokens"),
    *("resident_memory_bytes", "resident_bytes"),
)
"""How the names of those gauges end that are kept."""
MEMORY: Final = "_bytes"

_AGE: Final = "_seconds"
_HOUR: Final = 3_600.0


@dataclass(frozen=True, slots=True)
class Look:
    """What gauges said so many seconds after the first look; nothing where the worker did not answer."""

    at: float
    values: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Memory:
    """How much was held over so many seconds, and how that changed; None where it cannot be told."""

    seconds: float
    mean_bytes: float
    slope_bytes_per_hour: float | None


def pick(samples: Samples) -> dict[str, float]:
    """Return the watched gauges by name: over labels the sum, and of ages the greatest."""
    found: dict[str, float] = {}
    for full, value in samples.items():
        name = full.partition("{")[0]
        if name.endswith(WATCHED):
            known = found.get(name, 0.0)
            found[name] = max(known, value) if name.endswith(_AGE) else known + value
    return found


def judge_memory(looks: Sequence[Look]) -> dict[str, Memory]:
    """Return how each gauge of memory went in the second half of the looks.

    What a worker takes while it warms up is in the first half.
    """
    if not looks:
        return {}
    middle = (looks[0].at + looks[-1].at) / 2
    half = [look for look in looks if look.at >= middle]
    names = sorted({name for look in half for name in look.values if name.endswith(MEMORY)})
    return {
        name: _memory([(look.at, look.values[name]) for look in half if name in look.values])
        for name in names
    }


def _memory(points: Sequence[tuple[float, float]]) -> Memory:
    times, held = zip(*points, strict=True)
    slope = linear_regression(times, held).slope * _HOUR if len(points) > 1 else None
    return Memory(round(times[-1] - times[0], 3), fmean(held), slope)
