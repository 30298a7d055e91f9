"""The workers under test: a group whose members are killed, suspended, and started again."""

from __future__ import annotations

import asyncio
import contextlib
import random
import signal
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import psutil

from stream_infer.web.probe import read_metrics
from tests.broker.service_process import SCORING_STREAM, ServiceProcess

SESSION_TIMEOUT_S: Final = 6.0
SETTINGS: Final = SCORING_STREAM.replace("[service]", "[service]\nwatchdog_ms = 1500")
_WATCH_PAUSE: Final = 0.5


class Worker(ServiceProcess):
    """A worker that a fault may put down; one that ends without is started again, and counted."""

    def __init__(self, settings: str, directory: Path, name: str, instance_id: str = "") -> None:
        super().__init__(settings, directory, name=name, instance_id=instance_id)
        self.name = name
        self.own_ends: list[int] = []
        """The exit codes of the times it ended though nobody wanted it to."""
        self.bad_stops: list[str] = []
        """How it ended when it was asked to and did not end well."""
        self._is_wanted = False

    @property
    def processes(self) -> list[psutil.Process]:
        """Its own process, the nursery of its replica, and the replica, as far as they are there."""
        own = psutil.Process(self.pid)
        with contextlib.suppress(psutil.NoSuchProcess):
            nurseries = own.children()
            return [own, *nurseries, *(child for nursery in nurseries for child in nursery.children())]
        return [own]

    async def start(self) -> None:
        """Start the process, and want it to run."""
        await super().start()
        self._is_wanted = True

    async def kill(self) -> None:
        """End the process as a crash of the machine would."""
        self._is_wanted = False
        await super().kill()

    async def stop(self) -> int:
        """Ask the process to drain and end; return its exit code.

        One that is still starting does not listen yet: the signal ends it, and nothing is wrong.
        """
        self._is_wanted = False
        listens = bool(await read_metrics(self.url))
        try:
            code = await super().stop()
        except AssertionError as error:
            self.bad_stops.append(str(error))
            return -signal.SIGKILL
        if code and (listens or code != -signal.SIGTERM):
            self.bad_stops.append(f"ended with {code}")
        return code

    async def metric(self, name: str) -> float:
        """Return one of its metrics, added up over labels; 0 while it does not answer."""
        return (await read_metrics(self.url)).get(f"stream_infer_{name}", 0.0)

    async def restore(self) -> None:
        """Start it again if it was put down and left so."""
        if not self._is_wanted and self.exit_code is not None:
            await self.start()

    async def revive(self) -> None:
        """Start it again if it ended by itself."""
        code = self.exit_code
        if self._is_wanted and code is not None:
            self.own_ends.append(code)
            await self.start()


class Workers:
    """The members of the group that are there all the time, and those that join for a while."""

    def __init__(self, settings: str, directory: Path, count: int) -> None:
        self.settings = settings
        self.members = [
            Worker(settings, directory, name, instance_id=name)
            for name in (f"worker-{number}" for number in range(count))
        ]
        self._directory = directory
        self._guests: list[Worker] = []

    @property
    def own_ends(self) -> list[int]:
        """The exit codes of the times that one ended though nobody wanted it to."""
        return [code for worker in (*self.members, *self._guests) for code in worker.own_ends]

    @property
    def bad_stops(self) -> list[str]:
        """Who did not end well when asked to, and how."""
        return [f"{each.name}: {how}" for each in (*self.members, *self._guests) for how in each.bad_stops]

    def pick(self, draw: random.Random) -> Worker:
        """Return one that is there all the time."""
        return draw.choice(self.members)

    def others(self, worker: Worker) -> Sequence[Worker]:
        """Return those that are there all the time, but for one."""
        return [each for each in self.members if each is not worker]

    @asynccontextmanager
    async def guest(self, settings: str = "", instance_id: str = "") -> AsyncIterator[Worker]:
        """Have one worker more in the group while the context lasts; it leaves politely.

        Without an instance id its partitions are dealt out as soon as it has left.
        """
        name = f"guest-{len(self._guests)}"
        guest = Worker(settings or self.settings, self._directory, name, instance_id)
        self._guests.append(guest)
        await guest.start()
        try:
            yield guest
        finally:
            await guest.stop()

    async def restore(self) -> None:
        """Start those that a fault has left ended."""
        for worker in self.members:
            await worker.restore()

    async def watch(self) -> None:
        """Start those again that ended by themselves, as whoever runs a service does."""
        while True:
            await asyncio.sleep(_WATCH_PAUSE)
            for worker in (*self.members, *self._guests):
                await worker.revive()


@asynccontextmanager
async def running_workers(settings: str, directory: Path, count: int) -> AsyncIterator[Workers]:
    """Run workers while the context lasts, which kills what is left of them."""
    workers = Workers(settings, directory, count)
    try:
        for worker in workers.members:
            await worker.start()
        for worker in workers.members:
            await worker.ready()
        watching = asyncio.create_task(workers.watch())
        try:
            yield workers
        finally:
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)
    finally:
        for worker in workers.members:
            if worker.exit_code is None:
                await worker.kill()
