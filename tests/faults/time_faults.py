"""What befalls time: producers' clocks are years off, and a worker's own clock is set."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Final

from tests.faults.fault import Fault
from tests.faults.load import Special
from tests.faults.scene import Scene, until
from tests.faults.schedule import Share

_YEAR_MS: Final = 365 * 24 * 3600 * 1000
_YEARS: Final = (-40, -1, 1, 20)
_SENT: Final = 40

_LIBRARY: Final = next(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"), None)
"""Debian's package `faketime`; where it is missing, clocks are left alone."""
_PLAIN: Final = {"FAKETIME_NO_CACHE": "1", "FAKETIME_DONT_FAKE_MONOTONIC": "1"}
_RIGHT: Final = "+0"
_AHEAD: Final = 1_800
_BEHIND: Final = -86_400
_FAR_AHEAD: Final = 7_200
_FAR_AHEAD_S: Final = 1.5


async def send_wild_timestamps(scene: Scene, draw: random.Random) -> None:
    """Send records from producers whose clocks are years off, among others."""
    now_ms = int(time.time() * 1000)
    times = [now_ms + draw.choice(_YEARS) * _YEAR_MS for _ in range(_SENT)]
    slip = scene.load.slip_in([Special("out of time", timestamp_ms=each) for each in times])

    async def are_sent() -> bool:
        return slip.is_sent

    await until(are_sent, "sending records with wild timestamps")


async def step_clock(scene: Scene, draw: random.Random) -> None:
    """Set a worker's clock forth and back while it works.

    What it publishes while it is two hours ahead, Kafka refuses by default.
    """
    worker = scene.workers.pick(draw)
    clock = scene.directory / f"{worker.name}.clock"
    clock.write_text(_RIGHT, encoding="ascii")
    await worker.stop()
    worker.environment = {"LD_PRELOAD": str(_LIBRARY), "FAKETIME_TIMESTAMP_FILE": str(clock), **_PLAIN}
    await worker.start()
    try:
        await worker.ready()
        for step, is_seen in (
            (_AHEAD, scene.progress.is_stamped_after),
            (_BEHIND, scene.progress.is_stamped_before),
        ):
            clock.write_text(f"{step:+}", encoding="ascii")
            middle_ms = int((time.time() + step / 2) * 1000)
            await until(partial(_holds, is_seen, middle_ms), f"outcomes stamped {step} s off")
        clock.write_text(f"{_FAR_AHEAD:+}", encoding="ascii")
        await asyncio.sleep(_FAR_AHEAD_S)
        clock.write_text(_RIGHT, encoding="ascii")
    finally:
        await worker.stop()
        worker.environment = {}
        await worker.start()


async def _holds(is_seen: Callable[[int], bool], at_ms: int) -> bool:
    return is_seen(at_ms)


FAULTS: Final = (
    Fault("producer's clock years off", send_wild_timestamps),
    *([Fault("worker's clock set", step_clock, share=Share(0.5))] if _LIBRARY else []),
)
