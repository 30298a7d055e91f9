"""Brokers of the bench, and the services that compete on them, as processes of the bench."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Callable, Coroutine, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from tempfile import mkdtemp
from types import TracebackType
from typing import Any, Final, Self, TypeVar

from loadgen.bench.contender import ContenderError, child_environment
from loadgen.broker import Broker
from loadgen.kafka.brokers import running_broker
from loadgen.producer import Load
from loadgen.recorder import Recorder
from loadgen.running import Place, carry_out
from loadgen.schedule import Arrivals, Profile
from loadgen.texts import Pool
from stream_infer.bus.connection import connect
from stream_infer.bus.topics import TopicSpec, apply
from stream_infer.config import KafkaSettings

PARTITIONS: Final = 4
FLOOD: Final = Profile(Arrivals.CONSTANT, 1e6)
"""A schedule that nothing keeps up with: everything is due at once."""
PATIENCE: Final = 180.0
"""Seconds for a service to load its model and to join its group, and then from outcome to outcome."""
_SEED: Final = 7

Value = TypeVar("Value")


@dataclass(frozen=True, slots=True)
class Service:
    """A program that reads one topic and writes another; `command` is what follows `python -m`.

    The command is made of the broker's address and a directory for what the program needs on disk.
    """

    name: str
    slug: str
    command: Callable[[str, Path], Sequence[str]]

    @property
    def input(self) -> str:
        """Where its events come from."""
        return f"{self.slug}.requests"

    @property
    def output(self) -> str:
        """Where its results go."""
        return f"{self.slug}.results"


class Bus:
    """A broker with its topics, and the event loop that its clients run on; used as a context."""

    def __init__(self, kind: str, directory: Path, threads: int) -> None:
        self.kind = kind
        self.servers = ""
        self._directory = Path(mkdtemp(prefix=f"{kind}-", dir=directory))
        self._threads = threads
        self._runner = asyncio.Runner()
        self._stack = AsyncExitStack()
        self._running: list[subprocess.Popen[bytes]] = []
        self._runs = 0

    def __enter__(self) -> Self:
        broker = self.wait_for(self._stack.enter_async_context(running_broker(self.kind, self._directory)))
        self.servers = broker.bootstrap_servers
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in self._running:
            process.kill()
            process.wait()
        self.wait_for(self._stack.aclose())
        self._runner.close()

    def wait_for(self, work: Coroutine[Any, Any, Value]) -> Value:
        """Return what a coroutine returns."""
        return self._runner.run(work)

    def start(self, service: Service, texts: Sequence[str]) -> None:
        """Start a service and have it run some texts, so that its model is loaded and warm.

        Raises:
            ContenderError: it gives no results.
        """
        self.wait_for(self._make_topics(service))
        log = self._directory / f"{service.slug}.log"
        with log.open("wb") as output:
            process = subprocess.Popen(  # noqa: S603 - the command is the bench's own
                [sys.executable, "-m", *service.command(self.servers, self._directory)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=child_environment(self._threads),
            )
        self._running.append(process)
        self.run(service, texts, FLOOD)

    def run(self, service: Service, texts: Sequence[str], profile: Profile) -> Recorder:
        """Return what became of the texts, each sent once as the profile says.

        Raises:
            ContenderError: some have no outcome.
        """
        self._runs += 1
        load = Load(
            topic=service.input,
            pools=[Pool([{"text": text} for text in texts])],
            profile=profile,
            count=len(texts),
            max_seconds=PATIENCE,
            run=f"{service.slug}-{self._runs}",
        )
        place = Place(Broker(self.servers), [service.output], patience=PATIENCE)
        carried = self.wait_for(carry_out(load, place, _SEED))
        if not carried.is_complete:
            left = carried.recorder.outstanding
            raise ContenderError(f"{service.name}: {left} events without a result {carried.recorder.fault}")
        return carried.recorder

    def rate(self, service: Service, texts: Sequence[str]) -> float:
        """Return the events a second of a flood, from the first one sent to the last result read."""
        recorder = self.run(service, texts, FLOOD)
        return recorder.outcomes / recorder.last_outcome

    async def _make_topics(self, service: Service) -> None:
        specs = [
            TopicSpec(name=name, description="", direction="internal", partitions=PARTITIONS, key="")
            for name in (service.input, service.output)
        ]
        await apply(connect(KafkaSettings(), self.servers), specs)
