"""Not asking a broker again at once when it had nothing to say.

Kafka keeps a fetch waiting until there are records or its time is up. noida-db answers at once, and
each idle consumer would ask it two thousand times a second.
"""

from __future__ import annotations

import asyncio
from time import monotonic
from typing import Any
from weakref import WeakKeyDictionary

from aiokafka.consumer.fetcher import Fetcher

SHORTEST_PAUSE = 0.002
LONGEST_PAUSE = 0.01
"""Seconds between two empty answers; records that come meanwhile wait no longer than this."""
SHARE_OF_SILENCE = 0.05
"""A pause is this share of the time without records: who has had some lately soon gets the next."""
AT_ONCE = 0.05
"""An empty answer that took longer has waited for records: then there is nothing to pace."""

_ask = Fetcher._proc_fetch_request  # noqa: SLF001 - aiokafka has no hook between two fetches
_heard: WeakKeyDictionary[Any, float] = WeakKeyDictionary()
"""When each fetcher last had records, or began to ask."""


def pace_empty_fetches() -> None:
    """Make every consumer of this process pause after answers that are empty at once."""
    Fetcher._proc_fetch_request = _ask_and_pause  # noqa: SLF001 - as above


async def _ask_and_pause(self: Any, assignment: Any, node: int, request: Any) -> bool:
    try:
        started = monotonic()
        has_records = bool(await _ask(self, assignment, node, request))
        now = monotonic()
        if has_records:
            _heard[self] = now
        elif now - started <= AT_ONCE:
            await asyncio.sleep(pause_after(now - _heard.setdefault(self, started)))
    except asyncio.CancelledError:
        # The fetcher cancels fetches that are no longer wanted and expects them to end quietly, which
        # its own wait before another attempt does not: `stop` would raise.
        return False
    return has_records


def pause_after(silence: float) -> float:
    """Return the seconds to wait before asking again after so many seconds without records."""
    return min(max(silence * SHARE_OF_SILENCE, SHORTEST_PAUSE), LONGEST_PAUSE)
