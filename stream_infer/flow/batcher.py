"""Which batch runs next, over all lanes, and when to ask again."""

from __future__ import annotations

from collections.abc import Iterable
from math import inf

from stream_infer.flow.lane import Lane
from stream_infer.flow.pending import Batch


class Batcher:
    """Picks, when a replica can take a batch, the lane whose batch should leave.

    First a lane that would miss a deadline if another lane's batch ran before it, the earliest due
    of them; then the lane with overdue pieces that was served longest ago; then the earliest due.
    So a flood on one lane, however late it has become, takes only what the others leave.
    """

    def __init__(self, lanes: Iterable[Lane]) -> None:
        self.lanes = {lane.name: lane for lane in lanes}

    def next_batch(self, now: float, *, idle: bool, within: float = inf) -> Batch | None:
        """Return the batch that must or may leave now, or None.

        While the engine is idle anything that waits leaves; otherwise a batch leaves when it is
        full, when it is due, or when it holds what is overdue already. None leaves that is predicted
        to take longer than `within` seconds.
        """
        for lane in self.lanes.values():
            lane.settle(now)
        ready = [lane for lane in self.lanes.values() if _is_ready(lane, now, idle=idle, within=within)]
        if not ready:
            return None
        longest = max(lane.expected for lane in ready)
        return min(ready, key=lambda lane: _rank(lane, now + longest)).take(now)

    def next_wake(self, now: float) -> float | None:
        """Return when `next_batch` would next return a batch though the engine is not idle.

        It is `now` if it would at once, and None if nothing waits.
        """
        wake = inf
        for lane in self.lanes.values():
            lane.settle(now)
            if not lane.is_empty:
                wake = min(wake, now if _is_ready(lane, now, idle=False, within=inf) else lane.due)
            wake = min(wake, lane.wakes)
        return None if wake == inf else max(wake, now)


def _is_ready(lane: Lane, now: float, *, idle: bool, within: float) -> bool:
    if lane.is_empty or lane.expected > within:
        return False
    return idle or lane.is_full or lane.is_overdue or lane.due <= now


def _rank(lane: Lane, horizon: float) -> tuple[int, float]:
    due = lane.due
    if due <= horizon:
        return 0, due
    return (1, lane.served) if lane.is_overdue else (2, due)
