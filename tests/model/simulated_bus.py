"""A broker in memory: the input log, transactions with fencing, the committed positions of a group.

Each of its operations happens at once; what lies between two of them is the network's business.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from stream_infer.bus.batches import OutRecord
from stream_infer.bus.connection import Connection
from stream_infer.bus.offsets import Committed
from stream_infer.errors import BusError, PartitionLostError, RecordTooLargeError
from stream_infer.flow.offsets import MAX_METADATA_BYTES
from stream_infer.schemas import Partition, Record
from tests.model.network import Network, Request


@dataclass(slots=True)
class Transaction:
    """What one producer wrote since it began; its records are in the output log from the start."""

    number: int
    records: list[OutRecord] = field(default_factory=list)
    positions: dict[Partition, Committed] = field(default_factory=dict)
    state: str = "open"


class Tag(NamedTuple):
    """Which transaction a request belongs to."""

    identity: str
    epoch: int
    number: int


class SimulatedBus:
    """What the brokers hold, whoever asks."""

    def __init__(self, *, max_metadata_bytes: int = MAX_METADATA_BYTES, max_value_bytes: int = 1_000) -> None:
        self.logs: defaultdict[Partition, list[Record]] = defaultdict(list)
        """The input, by partition; offsets may have gaps."""
        self.output: list[tuple[OutRecord, Transaction]] = []
        self.positions: dict[Partition, Committed] = {}
        self.epochs: dict[str, int] = {}
        self.open: dict[str, Transaction] = {}
        self.refused: list[str] = []
        """Metadata that was too long."""
        self.fences = 0
        self.changes = 0
        """Counts what readers could notice."""
        self._ended: dict[str, int] = {}
        self._max_metadata_bytes = max_metadata_bytes
        self._max_value_bytes = max_value_bytes

    def produce(self, partition: Partition, keys: Sequence[bytes | None], gap: int = 0) -> None:
        """Append a record for each key, after a gap such as a transaction's marker leaves."""
        log = self.logs[partition]
        start = log[-1].offset + 1 + gap if log else gap
        for offset, key in enumerate(keys, start):
            value = b"%s/%d/%d" % (partition.topic.encode(), partition.partition, offset)
            log.append(Record(partition.topic, partition.partition, offset, 0, key, value))

    def read_committed(self) -> list[OutRecord]:
        """Return what a reader sees: up to the first record whose transaction is open, without the aborted.

        (Of a topic with several partitions each is read by itself; this one has one.)
        """
        seen: list[OutRecord] = []
        for record, transaction in self.output:
            if transaction.state == "open":
                break
            if transaction.state == "committed":
                seen.append(record)
        return seen

    def committed(self) -> list[OutRecord]:
        """Return all committed records, those too that an open transaction hides for now."""
        return [record for record, transaction in self.output if transaction.state == "committed"]

    def start_session(self, identity: str) -> int:
        """Fence the id's older sessions, end their open transaction, and return the new one's epoch."""
        self.fences += 1
        self.epochs[identity] = self.epochs.get(identity, -1) + 1
        self._end(identity, "aborted")
        self._ended[identity] = -1
        return self.epochs[identity]

    def expire(self, identity: str) -> None:
        """Give up on a transaction that has been open for too long: as if a newer session had started."""
        self.start_session(identity)

    def write(self, identity: str, epoch: int, number: int, records: Sequence[OutRecord]) -> None:
        """Append a transaction's records; one that is too large fails them all."""
        transaction = self._transaction(identity, epoch, number)
        for index, record in enumerate(records):
            if len(record.value or b"") > self._max_value_bytes:
                raise RecordTooLargeError("the broker refuses a record for its size", index)
        transaction.records += records
        self.output += [(record, transaction) for record in records]

    def add_position(
        self, identity: str, epoch: int, number: int, partition: Partition, position: Committed
    ) -> None:
        """Let a position be committed with a transaction."""
        self._check_metadata(position)
        self._transaction(identity, epoch, number).positions[partition] = position

    def commit(self, identity: str, epoch: int, number: int) -> None:
        """Let a transaction's records and positions appear at once."""
        transaction = self._transaction(identity, epoch, number)
        self.positions.update(transaction.positions)
        self._end(identity, "committed")

    def commit_position(self, partition: Partition, position: Committed) -> None:
        """Commit a position outside of any transaction: nothing fences it."""
        self._check_metadata(position)
        self.positions[partition] = position
        self.changes += 1

    def is_moot(self, tag: Hashable) -> bool:
        """Whether a request can do nothing any more but be refused."""
        return isinstance(tag, Tag) and tag.epoch != self.epochs[tag.identity]

    def age(self, tag: Tag) -> int | None:
        """Return how many transactions a request lies behind, or None if it will be refused anyhow."""
        return None if self.is_moot(tag) else self._ended[tag.identity] - tag.number

    def state(self) -> Hashable:
        """Return all that decides what the brokers answer from now on."""
        return (
            tuple(self.positions.items()),
            tuple(
                (name, tuple(record.value for record in each.records), tuple(each.positions.items()))
                for name, each in self.open.items()
            ),
        )

    def _transaction(self, identity: str, epoch: int, number: int) -> Transaction:
        """Return the open transaction, which begins here if it is new."""
        if epoch != self.epochs.get(identity):
            raise PartitionLostError(f"{identity}: epoch {epoch} was fenced by {self.epochs.get(identity)}")
        current = self.open.get(identity)
        if current is None and number > self._ended[identity]:
            current = self.open[identity] = Transaction(number)
        if current is None or current.number != number:
            raise BusError(f"{identity}: transaction {number} is not open")
        return current

    def _end(self, identity: str, state: str) -> None:
        transaction = self.open.pop(identity, None)
        if transaction is not None:
            transaction.state = state
            self._ended[identity] = transaction.number
            self.changes += 1

    def _check_metadata(self, position: Committed) -> None:
        if len(position.metadata) > self._max_metadata_bytes:
            self.refused.append(position.metadata)
            raise BusError(f"{len(position.metadata)} bytes of metadata are too many")


class SimulatedPositions:
    """The group's positions as one process reads them; it asks again until it is answered."""

    def __init__(self, bus: SimulatedBus, network: Network) -> None:
        self._bus = bus
        self._network = network

    async def read(self, partitions: Collection[Partition]) -> Mapping[Partition, Committed]:
        """Return the group's position in each of `partitions`."""
        wanted = tuple(partitions)
        return await self._network.ask_until_answered(
            "read", lambda: {each: self._bus.positions.get(each, Committed()) for each in wanted}
        )


class SimulatedSessions:
    """Sessions of one process."""

    def __init__(self, bus: SimulatedBus, network: Network) -> None:
        self._bus = bus
        self._network = network

    async def start(
        self,
        connection: Connection,  # noqa: ARG002 - the network is its connection
        *,
        transactional_id: str,
        batch_bytes: int,
    ) -> SimulatedSession:
        """Return a session that has fenced the id's older ones, however long it takes."""
        assert batch_bytes > 0
        epoch = await self._network.ask_until_answered(
            "start", lambda: self._bus.start_session(transactional_id)
        )
        return SimulatedSession(self._bus, self._network, transactional_id, epoch)


class SimulatedSession:
    """One transaction after the other, each step a request to the brokers."""

    def __init__(self, bus: SimulatedBus, network: Network, identity: str, epoch: int) -> None:
        self._bus = bus
        self._network = network
        self._identity = identity
        self._epoch = epoch
        self._number = 0
        self._written: list[Request[None]] = []

    async def send(self, records: Sequence[OutRecord], keyless: int) -> None:  # noqa: ARG002 - there is one output partition
        """Begin a transaction and hand its records over."""
        self._number += 1
        if records:
            batch = tuple(records)
            self._written = [self._network.send("write", self._operation(self._bus.write, batch), self._tag)]

    async def add_position(self, group: str, partition: Partition, position: Committed) -> None:  # noqa: ARG002 - there is one group
        """Let the group's position move with the transaction."""
        adding = self._operation(self._bus.add_position, partition, position)
        await self._network.ask("position", adding, self._tag)

    async def confirm(self) -> None:
        """Return once the broker has every record."""
        written, self._written = self._written, []
        for request in written:
            await request.answer

    async def commit(self) -> None:
        """Let records and position appear."""
        await self._network.ask("commit", self._operation(self._bus.commit), self._tag)

    async def commit_position(self, partition: Partition, position: Committed) -> None:
        """Commit a position outside of the transaction, as the product must not."""
        await self._network.ask("plain", lambda: self._bus.commit_position(partition, position))

    async def stop(self) -> None:
        """Send nothing more; what was sent may still arrive."""
        for request in self._written:
            request.abandon()

    @property
    def _tag(self) -> Tag:
        return Tag(self._identity, self._epoch, self._number)

    def _operation(self, what: Callable[..., None], *rest: object) -> Callable[[], None]:
        number = self._number
        return lambda: what(self._identity, self._epoch, number, *rest)
