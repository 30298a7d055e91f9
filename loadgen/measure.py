"""What a running service carries: events a second when saturated, and latencies below that."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from loadgen.broker import Broker
from loadgen.producer import Load
from loadgen.recorder import Recorder
from loadgen.running import Place, carry_out
from loadgen.schedule import Arrivals, Profile

LOAD_SHARE: Final = 0.5
"""The share of the saturated rate at which latencies are measured."""
SATURATING_RATE: Final = 1e6
PATIENCE_SECONDS: Final = 180.0


@dataclass(frozen=True, slots=True)
class Figures:
    """What was measured; latencies go from when an event was due to when its outcome was read."""

    events: int
    events_per_s: float
    steady_rate: float
    p50_ms: float
    p99_ms: float


async def measure(load: Load, bootstrap_servers: str, outputs: Sequence[str], seed: int) -> Figures:
    """Send a load as fast as it goes, then once more, steadily, at `LOAD_SHARE` of the rate found.

    The load's own schedule is not followed. Only the service's cache can make the second run of the
    same texts cheaper than the first: switch it off to measure the models.

    Raises:
        TimeoutError: outcomes did not all come back.
        ReadingError: the broker cannot be reached or a topic does not exist.
    """
    place = Place(Broker(bootstrap_servers), outputs, patience=PATIENCE_SECONDS)
    flood = Profile(Arrivals.CONSTANT, SATURATING_RATE)
    flooded = await _run(replace(load, profile=flood, run=f"{load.run}-flood"), place, seed)
    rate = flooded.outcomes / flooded.last_outcome
    steady = Profile(Arrivals.POISSON, rate * LOAD_SHARE)
    found = await _run(replace(load, profile=steady, run=f"{load.run}-steady"), place, seed)
    p50, p99 = (round(found.latencies.percentile_ms(each) or 0.0, 1) for each in (50.0, 99.0))
    return Figures(found.outcomes, round(rate, 1), round(steady.rate, 1), p50, p99)


async def _run(load: Load, place: Place, seed: int) -> Recorder:
    carried = await carry_out(load, place, seed)
    if not carried.is_complete or not carried.recorder.outcomes:
        left = carried.recorder.outstanding
        raise TimeoutError(f"{load.run}: {left} events without outcome; {carried.recorder.fault}")
    return carried.recorder
