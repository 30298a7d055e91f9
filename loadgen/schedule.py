"""When events are due, whether or not anything keeps up: what makes a load open-loop."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from itertools import count
from pathlib import Path


class Arrivals(StrEnum):
    """How the time between two events is drawn."""

    CONSTANT = "constant"
    POISSON = "poisson"
    BURST = "burst"
    RECORDED = "recorded"


class ScheduleError(ValueError):
    """A recorded schedule cannot be followed; the message names the line."""


@dataclass(frozen=True, slots=True)
class Profile:
    """A schedule: `rate` is events a second, on average where they do not come evenly.

    In bursts, all events of each `burst_seconds` come evenly within its first `burst_share`. Recorded
    ones are due at `recorded` seconds after the start, whatever the rate.
    """

    arrivals: Arrivals
    rate: float
    burst_seconds: float = 10.0
    burst_share: float = 0.1
    recorded: tuple[float, ...] = ()


def due_times(profile: Profile, draw: random.Random) -> Iterator[float]:
    """Yield the seconds after the start at which each event is due: without end, unless recorded."""
    if profile.arrivals is Arrivals.RECORDED:
        yield from profile.recorded
    elif profile.arrivals is Arrivals.POISSON:
        yield from _poisson(profile.rate, draw)
    else:
        for number in count():
            due = number / profile.rate
            yield _squeeze(due, profile) if profile.arrivals is Arrivals.BURST else due


def load_recorded(path: Path) -> tuple[float, ...]:
    """Return the seconds that a file holds, one a line, counted from the first.

    Raises:
        ScheduleError: the file is empty, a line is no number, or a time is before the one above it.
    """
    times: list[float] = []
    for number, line in enumerate(path.read_text(encoding="utf-8").split(), start=1):
        times.append(_seconds(line, f"{path}: entry {number}"))
        if len(times) > 1 and times[-1] < times[-2]:
            raise ScheduleError(f"{path}: entry {number} is before the one above it")
    if not times:
        raise ScheduleError(f"{path}: no times")
    return tuple(time - times[0] for time in times)


def _poisson(rate: float, draw: random.Random) -> Iterator[float]:
    """Yield the times of a Poisson process: the gaps are exponential."""
    elapsed = 0.0
    while True:
        yield elapsed
        elapsed += draw.expovariate(rate)


def _squeeze(due: float, profile: Profile) -> float:
    period, within = divmod(due, profile.burst_seconds)
    return period * profile.burst_seconds + within * profile.burst_share


def _seconds(text: str, where: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not math.isfinite(seconds):
        raise ScheduleError(f"{where} is not a number of seconds: {text[:20]!r}")
    return seconds
