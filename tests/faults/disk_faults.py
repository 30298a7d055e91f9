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
_FIRST_RESULT_S: Final = 60.0


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


async def start_on_full_disk(scene: Scene, draw: random.Random) -> None:
    """Start a worker none of whose files can grow: not its log, nor what it would keep."""
    worker = scene.workers.pick(draw)
    await worker.kill()
    size = worker.log_path.stat().st_size
    await worker.start()
    _limit(worker.processes, _FULL)
    try:
        await worker.ready()

        async def has_results() -> bool:
            return await worker.metric("results_total") > 0

        await until(has_results, f"results of {worker.name}", _FIRST_RESULT_S)
        if worker.log_path.stat().st_size != size:
            raise NotRealError(f"{worker.name} could write its log")
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
    Fault("worker started on a full disk", start_on_full_disk),
    Fault("broker's disk full", fill_broker_disk, kinds=ON_KAFKA, share=Share(0.5)),
)
