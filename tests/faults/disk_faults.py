"""What befalls disks: no file can grow any more."""

from __future__ import annotations

import random
import signal
from collections.abc import Sequence
from typing import Final

import psutil

from tests.faults.fault import ON_KAFKA, Fault
from tests.faults.replica_faults import process_of
from tests.faults.scene import NotRealError, Scene, until
from tests.faults.schedule import Share

_FULL: Final = 0


async def fill_worker_disk(scene: Scene, draw: random.Random) -> None:
    """Let no file of a worker grow, its log included, while its replica dies and is replaced."""
    worker = scene.workers.pick(draw)
    replica = await process_of(worker)
    processes = worker.processes
    before, size = await worker.metric("replica_restarts_total"), worker.log_path.stat().st_size
    _limit(processes, _FULL)
    try:
        replica.send_signal(signal.SIGKILL)

        async def is_replaced() -> bool:
            return await worker.metric("replica_restarts_total") > before

        await until(is_replaced, f"{worker.name} replacing its replica")
        if worker.log_path.stat().st_size != size:
            raise NotRealError(f"{worker.name} could still write its log")
    finally:
        _limit(worker.processes, psutil.RLIM_INFINITY)


async def fill_broker_disk(scene: Scene, draw: random.Random) -> None:
    """Let no file of a node grow: it gives up, and is started again when there is room."""
    assert scene.brokers.cluster is not None
    node = draw.choice(scene.brokers.cluster.nodes)
    _limit([psutil.Process(node.pid)], _FULL)

    async def has_given_up() -> bool:
        return not node.is_running

    try:
        await until(has_given_up, "the node giving up")
    finally:
        await node.stop(signal.SIGKILL)
        await node.start()


def _limit(processes: Sequence[psutil.Process], size: int) -> None:
    for process in processes:
        _, hard = process.rlimit(psutil.RLIMIT_FSIZE)
        process.rlimit(psutil.RLIMIT_FSIZE, (size, hard))


FAULTS: Final = (
    Fault("worker's disk full", fill_worker_disk),
    Fault("broker's disk full", fill_broker_disk, kinds=ON_KAFKA, share=Share(0.5)),
)
