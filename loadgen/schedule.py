"""When events are due, whether or not anything keeps up: what makes a load open-loop."""

from __future__ import annotations

import random
from collections.abc import Iterator
from enum import StrEnum


class Arrivals(StrEnum):
    """How the time between two events is drawn."""

    CONSTANT = "constant"
    POISSON = "poisson"


def due_times(rate: float, arrivals: Arrivals, draw: random.Random) -> Iterator[float]:
    """Yield the seconds after the start at which each event is due, without end.

    `rate` is events a second: exactly so when constant, on average for a Poisson process, whose
    gaps are exponential.
    """
    number, elapsed = 0, 0.0
    while True:
        yield elapsed
        number += 1
        elapsed = number / rate if arrivals is Arrivals.CONSTANT else elapsed + draw.expovariate(rate)
