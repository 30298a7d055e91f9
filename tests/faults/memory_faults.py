"""What befalls memory: the kernel kills the process that takes too much of it."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from tests.faults.fault import Fault
from tests.faults.load import Special
from tests.faults.scene import NotRealError, Scene, until

LIMIT_BYTES: Final = 256 << 20
"""More than replicas need, and less than `<hog>` takes."""
_REASON: Final = "replica_died"
_ROOT: Final = Path("/sys/fs/cgroup")
_NAME: Final = "stream-infer-faults"


class MemoryGroup:
    """A control group whose memory is limited, in either version of the kernel's interface."""

    def __init__(self, path: Path, limit: str, events: str) -> None:
        self._path = path
        self._limit = path / limit
        self._events = path / events

    @property
    def kills(self) -> int:
        """How many of its processes the kernel has killed for their memory."""
        lines = dict(line.split(maxsplit=1) for line in self._events.read_text().splitlines())
        return int(lines.get("oom_kill", "0"))

    def add(self, pid: int) -> None:
        """Put a process into the group, and with it the children that it will have."""
        (self._path / "cgroup.procs").write_text(str(pid))

    @contextmanager
    def exists(self) -> Iterator[None]:
        """Have the group while the context lasts; then its processes are where they were."""
        self._path.mkdir(exist_ok=True)
        self._limit.write_text(str(LIMIT_BYTES))
        try:
            yield
        finally:
            for pid in (self._path / "cgroup.procs").read_text().split():
                (self._path.parent / "cgroup.procs").write_text(pid)
            self._path.rmdir()


async def exhaust_kernel_memory(scene: Scene, _: random.Random) -> None:
    """Send a record for which a replica takes more memory than it may have: the kernel kills it.

    The record alone must be dead-lettered.
    """
    assert _GROUP is not None
    known = scene.progress.reasons[_REASON]
    with _GROUP.exists():
        for worker in scene.workers.members:
            for process in worker.processes[1:]:
                _GROUP.add(process.pid)
        scene.load.slip_in([Special("<hog>")])

        async def is_dead_lettered() -> bool:
            return scene.progress.reasons[_REASON] > known

        await until(is_dead_lettered, f"a dead letter for {_REASON}", 60.0)
        if not _GROUP.kills:
            raise NotRealError("the kernel has killed nobody")


def _find_group() -> MemoryGroup | None:
    """Return where a group can be made, or None where this process may make none."""
    old, new = _ROOT / "memory", _ROOT
    if (old / "memory.limit_in_bytes").exists() and os.access(old, os.W_OK):
        return MemoryGroup(old / _NAME, "memory.limit_in_bytes", "memory.oom_control")
    subtree = new / "cgroup.subtree_control"
    if os.access(new, os.W_OK) and subtree.exists() and "memory" in subtree.read_text():
        return MemoryGroup(new / _NAME, "memory.max", "memory.events")
    return None


_GROUP: Final = _find_group()

FAULTS: Final = (Fault("replica out of memory", exhaust_kernel_memory),) if _GROUP else ()
