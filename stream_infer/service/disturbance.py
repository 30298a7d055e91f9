"""Whether others used the cores while something was measured."""

from __future__ import annotations

from time import monotonic
from typing import Final

import psutil

_TOLERATED_CORES: Final = 0.25


class OtherLoad:
    """The processor time that all but this process and its descendants use, from its making on."""

    def __init__(self) -> None:
        self._since = monotonic()
        self._before = _others()

    def cores(self) -> float:
        """Return how many cores they kept busy on average."""
        elapsed = max(monotonic() - self._since, 1e-3)
        return max(_others() - self._before, 0.0) / elapsed


def disturbs(other_cores: float, needed: int, cores: int) -> bool:
    """Say whether so much other load left fewer than the needed ones of a machine's cores."""
    return other_cores > max(cores - needed, 0) + _TOLERATED_CORES


def _others() -> float:
    times = psutil.cpu_times()
    busy = sum(times) - times.idle - getattr(times, "iowait", 0.0) - getattr(times, "guest", 0.0)
    own = psutil.Process()
    return busy - sum(_used_by(process) for process in (own, *own.children(recursive=True)))


def _used_by(process: psutil.Process) -> float:
    try:
        used = process.cpu_times()
    except psutil.NoSuchProcess:
        return 0.0
    return used.user + used.system
