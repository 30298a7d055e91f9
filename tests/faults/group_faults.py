"""What befalls the group: members come and go, too many of them, and some that were told other things."""

from __future__ import annotations

import random
from contextlib import AsyncExitStack
from typing import Final

from tests.faults.fault import ON_KAFKA, Fault
from tests.faults.scene import DEAD_LETTERS, ELSEWHERE, OUTPUT, Scene, until
from tests.faults.workers import Worker

_ROUNDS: Final = 2
_JOIN_S: Final = 60.0
_OTHER_STREAM: Final = f"""
ordering = "partition"
latency_budget_ms = 50
[streams.other]
task = "classify"
input = "{ELSEWHERE}"
output = "{OUTPUT}"
dead_letters = "{DEAD_LETTERS}"
model = "scorer"
"""


async def come_and_go(scene: Scene, _: random.Random) -> None:
    """Have one worker more join and leave, again and again."""
    for _round in range(_ROUNDS):
        async with scene.workers.guest() as guest:
            await _joined(guest)


async def crowd(scene: Scene, _: random.Random) -> None:
    """Have more workers in the group than there are partitions."""
    more = len(scene.load.written) + 1 - len(scene.workers.members)
    async with AsyncExitStack() as stack:
        guests = [await stack.enter_async_context(scene.workers.guest()) for _ in range(more)]
        for guest in guests:
            await _joined(guest)


async def disagree(scene: Scene, _: random.Random) -> None:
    """Have a worker in the group that reads one topic more, orders otherwise and times out later."""
    settings = scene.workers.settings.replace("session_timeout_ms = 6000", "session_timeout_ms = 9000")
    async with scene.workers.guest(settings + _OTHER_STREAM) as guest:
        await _joined(guest)


async def double(scene: Scene, draw: random.Random) -> None:
    """Have a second worker under the instance id of one that runs, as after a failover that was none.

    The broker lets in whoever came last, so the two throw each other out.
    """
    worker = scene.workers.pick(draw)
    before = await worker.metric("rebalances_total")
    async with scene.workers.guest(instance_id=worker.name) as guest:
        await _joined(guest)

        async def is_thrown_out() -> bool:
            return await worker.metric("rebalances_total") > before

        await until(is_thrown_out, f"{worker.name} having to join again")


async def _joined(worker: Worker) -> None:
    async def has_joined() -> bool:
        return await worker.metric("rebalances_total") > 0

    await until(has_joined, f"{worker.name} joining", _JOIN_S)


FAULTS: Final = (
    Fault("worker joins and leaves", come_and_go),
    Fault("more workers than partitions", crowd),
    Fault("worker with other settings", disagree, kinds=ON_KAFKA),
    Fault("two workers with one instance id", double, kinds=ON_KAFKA),
)
