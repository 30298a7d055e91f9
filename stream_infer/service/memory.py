"""Memory that the process holds but does not use, given back to the system."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

TRIM_EVERY: Final = 60.0
"""Seconds between two times; each takes less than a millisecond."""


async def keep_trimmed(trim: Callable[[int], int] | None, every: float = TRIM_EVERY) -> None:
    """Have the C library give back its free pages, every so many seconds, until cancelled.

    Buffers of all sizes come and go with records. glibc keeps what lies between those in use, and a
    busy worker's heap grew by 20 MB an hour that held nothing.
    """
    while trim is not None:
        await asyncio.sleep(every)
        trim(0)
