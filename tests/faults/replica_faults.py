"""What befalls the processes that run models, and the records that do it to them."""

from __future__ import annotations

import random
import signal
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final

import psutil

from tests.faults.fault import OFTEN, Fault
from tests.faults.load import Special
from tests.faults.scene import Scene, until
from tests.faults.workers import Worker

NURSERY: Final = 1
REPLICA: Final = 2
"""Their places among a worker's processes."""
REPLICA_S: Final = 30.0
"""How long a worker may have none: one that starts loads its models first."""


async def signal_replica(scene: Scene, draw: random.Random, *, number: signal.Signals) -> None:
    """Send the process that runs batches a signal, until the worker has replaced it.

    SIGKILL is what the kernel sends when memory runs out.
    """
    await _replaced(scene.workers.pick(draw), REPLICA, number)


async def kill_nursery(scene: Scene, draw: random.Random) -> None:
    """Kill the process that the replicas of a worker come from, and with it the replica."""
    await _replaced(scene.workers.pick(draw), NURSERY, signal.SIGKILL)


async def send_poison(scene: Scene, _: random.Random, *, mark: str, reason: str) -> None:
    """Send a record that does something to the replica: it alone must be dead-lettered, for that reason."""
    known = scene.progress.reasons[reason]
    scene.load.slip_in([Special(mark)])
    await until(lambda: _has_reason(scene, reason, known + 1), f"a dead letter for {reason}", 60.0)


async def process_of(worker: Worker, place: int = REPLICA) -> psutil.Process:
    """Return a process that runs models for a worker, once it has a replica.

    It has none while it starts, or replaces one that a fault before this has ended.
    """
    found: list[psutil.Process] = []

    async def is_there() -> bool:
        is_loaded = await worker.metric("replica_resident_bytes") > 0
        found[:] = worker.processes[place : place + 1]
        return is_loaded and bool(found)

    await until(is_there, f"{worker.name} having a replica", REPLICA_S)
    return found[0]


async def _replaced(worker: Worker, place: int, number: signal.Signals) -> None:
    """Send one of a worker's processes a signal, and return once it has another replica."""
    process = await process_of(worker, place)
    before = await worker.metric("replica_restarts_total")
    process.send_signal(number)

    async def is_replaced() -> bool:
        return await worker.metric("replica_restarts_total") > before

    await until(is_replaced, f"{worker.name} replacing its replica")


async def _has_reason(scene: Scene, reason: str, count: int) -> bool:
    return scene.progress.reasons[reason] >= count


def _poison(mark: str, reason: str) -> Callable[[Scene, random.Random], Awaitable[None]]:
    return partial(send_poison, mark=mark, reason=reason)


FAULTS: Final = (
    Fault("replica killed", partial(signal_replica, number=signal.SIGKILL), share=OFTEN),
    Fault("replica segfaults", partial(signal_replica, number=signal.SIGSEGV), share=OFTEN),
    Fault("replica hangs", partial(signal_replica, number=signal.SIGSTOP)),
    Fault("replica's nursery killed", kill_nursery, share=OFTEN),
    Fault("record exhausts memory", _poison("<memory>", "out_of_memory")),
    Fault("record kills the replica", _poison("<die>", "replica_died")),
    Fault("record makes the model raise", _poison("<raise>", "model_failed")),
)
