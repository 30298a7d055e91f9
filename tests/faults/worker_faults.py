"""What befalls whole workers: they are killed, stopped, suspended, and their disks are full."""

from __future__ import annotations

import random
import signal
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Final

from tests.faults.fault import OFTEN, Fault
from tests.faults.scene import NotRealError, Scene, until
from tests.faults.workers import SESSION_TIMEOUT_S, Worker

_TAKEN_OVER_S: Final = SESSION_TIMEOUT_S + 15.0


async def kill_and_restart(scene: Scene, draw: random.Random) -> None:
    """Kill a worker, which comes back within its session: nobody takes its partitions over."""
    worker = scene.workers.pick(draw)
    await worker.kill()
    _require_exit(worker, -signal.SIGKILL)
    await worker.start()


async def kill_and_take_over(scene: Scene, draw: random.Random) -> None:
    """Kill a worker, which comes back when the others have its partitions."""
    worker = scene.workers.pick(draw)
    async with _taken_over(scene.workers.others(worker)):
        await worker.kill()
    _require_exit(worker, -signal.SIGKILL)
    await worker.start()


async def kill_all(scene: Scene, _: random.Random) -> None:
    """Kill all workers at once, as a power cut would."""
    for worker in scene.workers.members:
        await worker.kill()
        _require_exit(worker, -signal.SIGKILL)
    for worker in scene.workers.members:
        await worker.start()


async def stop_and_restart(scene: Scene, draw: random.Random) -> None:
    """Stop a worker politely, and start it again; that it ends well is seen to elsewhere."""
    worker = scene.workers.pick(draw)
    await worker.stop()
    await worker.start()


async def suspend_past_session(scene: Scene, draw: random.Random) -> None:
    """Suspend a worker until others have its partitions: what it does afterwards must count for nothing."""
    worker = scene.workers.pick(draw)
    try:
        async with _taken_over(scene.workers.others(worker)):
            worker.send(signal.SIGSTOP)
    finally:
        worker.send(signal.SIGCONT)


def _require_exit(worker: Worker, code: int) -> None:
    if worker.exit_code != code:
        raise NotRealError(f"{worker.name} ended with {worker.exit_code}, not {code}")


@asynccontextmanager
async def _taken_over(workers: Sequence[Worker]) -> AsyncIterator[None]:
    """Wait at the end of the context for a rebalance among the workers."""

    async def rebalances() -> float:
        return sum([await worker.metric("rebalances_total") for worker in workers])

    before = await rebalances()
    yield

    async def has_rebalanced() -> bool:
        return await rebalances() > before

    await until(has_rebalanced, "the others' taking over", _TAKEN_OVER_S)


FAULTS: Final = (
    Fault("worker killed, back at once", kill_and_restart, share=OFTEN),
    Fault("worker killed, taken over", kill_and_take_over),
    Fault("all workers killed", kill_all),
    Fault("worker stopped and started", stop_and_restart),
    Fault("worker suspended past its session", suspend_past_session),
)
