"""What befalls connections: they are cut, slow, and carry nothing for a while."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from functools import partial
from typing import Final

from tests.faults.fault import OFTEN, ON_KAFKA, Fault
from tests.faults.proxy import Proxy
from tests.faults.scene import NotRealError, Scene
from tests.faults.workers import SESSION_TIMEOUT_S

CUTS: Final = 3
SLOW_S: Final = 4.0
DELAY_S: Final = 0.15


async def cut(scene: Scene, draw: random.Random) -> None:
    """Reset connections, and those that take their place."""
    count = 0
    for _ in range(CUTS):
        count += sum(proxy.cut() for proxy in _some(scene, draw))
        await asyncio.sleep(draw.random())
    if not count:
        raise NotRealError("there were no connections to cut")


async def slow(scene: Scene, draw: random.Random) -> None:
    """Hold back whatever comes and goes."""
    proxies = _some(scene, draw)
    for proxy in proxies:
        proxy.delay = DELAY_S
    await asyncio.sleep(SLOW_S)
    for proxy in proxies:
        proxy.delay = 0.0
    _require_connections(proxies)


async def stall(scene: Scene, draw: random.Random, *, seconds: float) -> None:
    """Carry nothing for a while, over connections that stay open."""
    proxies = _some(scene, draw)
    for proxy in proxies:
        proxy.stall()
    await asyncio.sleep(seconds)
    _require_connections(proxies)
    for proxy in proxies:
        proxy.resume()


def _some(scene: Scene, draw: random.Random) -> Sequence[Proxy]:
    """Return the proxy before one broker, or before all."""
    proxies = scene.brokers.proxies
    return draw.choice([[draw.choice(proxies)], proxies])


def _require_connections(proxies: Sequence[Proxy]) -> None:
    if not any(proxy.connections for proxy in proxies):
        raise NotRealError("nobody is connected")


FAULTS: Final = (
    Fault("connections cut", cut, kinds=ON_KAFKA, share=OFTEN),
    Fault("connections slow", slow, kinds=ON_KAFKA),
    Fault("connections stalled", partial(stall, seconds=SESSION_TIMEOUT_S / 2), kinds=ON_KAFKA),
    Fault(
        "connections stalled past the session", partial(stall, seconds=SESSION_TIMEOUT_S + 3), kinds=ON_KAFKA
    ),
)
