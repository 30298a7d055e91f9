"""One process of the group: the product's owners, intake and producers, on its own loop and network."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

from stream_infer.bus import transactions
from stream_infer.bus.batches import OutRecord
from stream_infer.bus.connection import connect
from stream_infer.bus.transactions import TransactionalProducer
from stream_infer.config import BUILTIN_MODELS, BUILTIN_STREAMS, KafkaSettings, Settings
from stream_infer.errors import PartitionLostError
from stream_infer.metrics import Metrics
from stream_infer.schemas import (
    ClassifyBody,
    DeadLetter,
    Ordering,
    Outcome,
    Partition,
    Record,
    Request,
    Result,
)
from stream_infer.service import intake, partitions
from stream_infer.service.intake import Intake
from stream_infer.service.partitions import PartitionOwner
from tests.model.network import Network
from tests.model.simulated_bus import SimulatedBus, SimulatedPositions, SimulatedSessions
from tests.model.stepping import SteppedLoop

DRAIN_SECONDS = 30.0
GROUP = "group"
TOPIC = BUILTIN_STREAMS["classify"].input


class Silence:
    """Logs nothing, which takes the least time."""

    def _ignore(self, *_: object, **__: object) -> None: ...

    info = warning = _ignore


_CONNECTION = connect(KafkaSettings())
_SETTINGS = Settings()
_COUNTED = Metrics(BUILTIN_STREAMS, BUILTIN_MODELS).streams["classify"]


@dataclass(frozen=True)
class Parts:
    """What of the product runs; a mutant puts something broken in its place."""

    owner: type[PartitionOwner] = PartitionOwner
    producer: type[TransactionalProducer] = TransactionalProducer
    intake: type[Intake] = Intake
    forgets: bool = True
    """Whether the engine forgets the work of a partition that was lost."""
    patches: tuple[tuple[object, str, object], ...] = ()
    """Objects, names in them, and what is to be there instead."""

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """Have the patches in place for the length of a context."""
        with ExitStack() as stack:
            stack.enter_context(patch.object(intake, "decode_request", _decode))
            for module in (partitions, transactions):
                stack.enter_context(patch.object(module, "log", Silence()))
            for target, name, replacement in self.patches:
                stack.enter_context(patch.object(target, name, replacement))
            yield


PRODUCT = Parts()


def _decode(record: Record, name: str, *_: object, now: float, **__: object) -> Request:
    """Take the place of decoding, which matters elsewhere."""
    return Request(record.position, name, ClassifyBody("text"), record, now, now)


class BareEncoder:
    """Turns an outcome into its input's key and value, and a too large one into a dead letter."""

    def encode(self, outcome: Outcome) -> tuple[Outcome, OutRecord]:
        """Return the outcome and its record."""
        return outcome, OutRecord("output", outcome.record.key, outcome.record.value)

    def shrink(self, outcome: Outcome, record: OutRecord) -> tuple[Outcome, OutRecord]:  # noqa: ARG002 - the protocol's
        """Return a dead letter."""
        letter = DeadLetter(outcome.record, outcome.id, "classify", "result_too_large", "why", "publish")
        return letter, OutRecord("output", outcome.record.key, outcome.record.value)


class SimulatedSource:
    """Gives the records of partitions from where they were told to flow."""

    def __init__(self, bus: SimulatedBus, network: Network) -> None:
        self._bus = bus
        self._network = network
        self.positions: dict[Partition, int] = {}
        """Of each flowing partition the next offset to fetch."""
        self.assigned: set[Partition] = set()

    async def begin(self, partition: Partition, offset: int | None) -> None:
        """Let a partition flow."""
        if offset is None:
            offset = await self._network.ask_until_answered("beginning", lambda: 0)
        if partition not in self.assigned:
            raise PartitionLostError(f"{partition} does not belong to this worker")
        self.positions[partition] = offset

    def waiting(self) -> list[Partition]:
        """Return the partitions of which there is something to fetch."""
        return [
            each
            for each, position in self.positions.items()
            if (log := self._bus.logs[each]) and log[-1].offset >= position
        ]

    def take(self, partition: Partition, most: int) -> list[Record]:
        """Return the next records."""
        position = self.positions[partition]
        records = [each for each in self._bus.logs[partition] if each.offset >= position][:most]
        self.positions[partition] = records[-1].offset + 1
        return records


@dataclass(slots=True)
class Tenure:
    """A partition that the process believes to own."""

    owner: PartitionOwner
    task: asyncio.Task[None]
    release: asyncio.Task[None] | None = None


class SimulatedWorker:
    """A process that lives until it crashes, with an engine that finishes what it is told to."""

    def __init__(self, bus: SimulatedBus, ordering: Ordering, parts: Parts = PRODUCT) -> None:
        self.loop = SteppedLoop()  # type: ignore[abstract] # what it leaves out nothing here asks for
        self.network = Network(self.loop)
        self.source = SimulatedSource(bus, self.network)
        self.tenures: dict[Partition, Tenure] = {}
        self.in_flight: list[Record] = []
        """What the engine works on."""
        self.turns = 0
        """How often others had their turn since records came."""
        self.faults: list[str] = []
        """What ended that must not end."""
        self._ordering = ordering
        self._parts = parts
        self._sessions = SimulatedSessions(bus, self.network)
        self._positions = SimulatedPositions(bus, self.network)
        self._owners: dict[Partition, PartitionOwner] = {}
        self._intake = parts.intake(_SETTINGS, self._owners, self._submit)
        self._tenure: object = None
        self._fetched: asyncio.Future[Mapping[Partition, Sequence[Record]]] | None = None
        self.taking = self._spawn(self._take_in())

    @property
    def is_open(self) -> bool:
        """Whether any partition flows."""
        return any(tenure.owner.is_open for tenure in self.tenures.values())

    def assign(self, partition: Partition) -> None:
        """Own a partition, as the group says."""
        self.source.assigned.add(partition)
        producer = self._parts.producer(
            _CONNECTION, self._positions, group=GROUP, partition=partition, start=self._sessions.start
        )
        owner = self._owners[partition] = self._parts.owner(
            partition,
            self._ordering,
            producer,
            BareEncoder(),
            _COUNTED,
            begin=self.source.begin,
            drop=self._drop,
            note=lambda _outcomes, _now: None,
            doubt=lambda: None,
        )
        self.tenures[partition] = Tenure(owner, self._spawn(owner.run()))

    def revoke(self, partition: Partition) -> None:
        """Let a partition go: publish what is in flight, for a bounded time."""
        self.source.assigned.discard(partition)
        self.source.positions.pop(partition, None)
        tenure = self.tenures[partition]
        tenure.release = self._spawn(self._release(partition))

    def can_fetch(self) -> list[Partition]:
        """Return the partitions of which records could come now."""
        if self._fetched is None or self._fetched.done():
            return []
        return self.source.waiting()

    def fetch(self, partition: Partition, most: int) -> None:
        """Let records come."""
        assert self._fetched
        self.turns = 0
        self._tenure = self._owners[partition].tenure
        self._fetched.set_result({partition: self.source.take(partition, most)})
        self.loop.settle()

    def take_turn(self) -> None:
        """Let the intake go on."""
        self.turns += 1
        self.loop.take_turn()

    @property
    def admits_for_another(self) -> bool:
        """Whether the partition was lost since the records came that are being taken in."""
        return any(owner.tenure is not self._tenure for owner in self._owners.values())

    def finish(self, record: Record) -> None:
        """Let the engine finish a record."""
        self.in_flight.remove(record)
        owner = self._owners.get(Partition(record.topic, record.partition))
        if owner is not None:
            owner.finish([Result(record, record.position, "classify", {}, "m")])
        self.loop.settle()

    def crash(self) -> None:
        """End at once. What was sent may still arrive."""
        self.network.crash(self._end)
        self.in_flight.clear()
        self.source.positions.clear()
        self.source.assigned.clear()

    def _end(self) -> None:
        for task in self._tasks():
            task.cancel()
        self.loop.settle()
        self._owners.clear()
        self.tenures.clear()
        self._fetched = None

    def _tasks(self) -> list[asyncio.Task[None]]:
        tasks = [self.taking]
        for tenure in self.tenures.values():
            tasks += [tenure.task, *([tenure.release] if tenure.release else [])]
        return tasks

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = self.loop.create_task(work)
        task.add_done_callback(self._note_end)
        self.loop.settle()
        return task

    def _note_end(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self.faults.append(f"a task ended: {error!r}")

    async def _take_in(self) -> None:
        while True:
            self._fetched = self.loop.create_future()
            await self._intake.admit(await self._fetched)

    def _submit(self, requests: Sequence[Request]) -> None:
        self.in_flight += [request.record for request in requests]

    def _drop(self, partition: Partition) -> None:
        if self._parts.forgets:
            self.in_flight = [each for each in self.in_flight if each.partition != partition.partition]

    async def _release(self, partition: Partition) -> None:
        """Do what a worker does when a partition is taken from it."""
        tenure = self.tenures[partition]
        with suppress(TimeoutError):
            async with asyncio.timeout(DRAIN_SECONDS):
                await tenure.owner.drain()
        tenure.task.cancel()
        await asyncio.gather(tenure.task, return_exceptions=True)
        del self._owners[partition]
        del self.tenures[partition]
