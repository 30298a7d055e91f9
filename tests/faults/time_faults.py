"""What befalls time: producers' clocks are years off, and a worker's own clock is set."""

from __future__ import annotations

import random
import time
from typing import Final

from tests.faults.fault import Fault
from tests.faults.load import Special
from tests.faults.scene import Scene, until

_YEAR_MS: Final = 365 * 24 * 3600 * 1000
_YEARS: Final = (-40, -1, 1, 20)
_SENT: Final = 40


async def send_wild_timestamps(scene: Scene, draw: random.Random) -> None:
    """Send records from producers whose clocks are years off, among others."""
    now_ms = int(time.time() * 1000)
    times = [now_ms + draw.choice(_YEARS) * _YEAR_MS for _ in range(_SENT)]
    slip = scene.load.slip_in([Special("out of time", timestamp_ms=each) for each in times])

    async def are_sent() -> bool:
        return slip.is_sent

    await until(are_sent, "sending records with wild timestamps")


FAULTS: Final = (Fault("producer's clock years off", send_wild_timestamps),)
