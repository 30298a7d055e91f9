"""The output side of the bus: outcomes, and the input position they answer for, written together."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from typing import Any, Protocol, cast

import structlog
from aiokafka.errors import KafkaError

from stream_infer.bus.batches import OutRecord
from stream_infer.bus.connection import Connection, bus_error
from stream_infer.bus.offsets import Committed
from stream_infer.bus.sending import (
    BATCH_BYTES,
    BatchTooLargeError,
    confirm,
    send_records,
    start_producer,
    stop_producer,
)
from stream_infer.bus.sessions import FAILURES, start_session
from stream_infer.errors import BusError, PartitionLostError, RecordTooLargeError
from stream_infer.schemas import Partition

Commit = Callable[[Partition, int, str], Awaitable[None]]

log = structlog.get_logger(__name__)


class PartitionProducer(Protocol):
    """Publishes the outcomes of one input partition; one call at a time."""

    async def open(self) -> Committed:
        """Return the position to begin from, once no older producer can move it any more.

        Waits as long as the broker is out of reach. Call it again after `PartitionLostError` if the
        partition still belongs to this process: a transaction that the broker timed out looks the
        same as one that another worker fenced.
        """
        ...

    async def publish(self, records: Sequence[OutRecord], offset: int, metadata: str) -> None:
        """Write the records and the position, which must differ from the one before.

        Waits as long as the broker is out of reach. If cancelled, what became of the records is
        unknown and the producer has to be opened again.

        Raises:
            RecordTooLargeError: one record is too large; publish again without it.
            PartitionLostError: the partition has another owner or the broker gave up on the
                transaction: drop the partition's work, never resend it.
            AccessRefusedError: nothing was committed, and publishing again is no use.
            BusError: nothing was committed; publish the same again.
        """
        ...

    async def close(self) -> None:
        """Give up what is not published and close the connections."""
        ...


class CommittedPositions(Protocol):
    """What a consumer group has committed."""

    async def read(self, partitions: Collection[Partition]) -> Mapping[Partition, Committed]:
        """Return the group's position in each of `partitions`, as it is once the call has begun."""
        ...


class Session(Protocol):
    """A running producer under a transactional id: one transaction after the other.

    Whatever fails raises `PartitionLostError` where a newer session of the id has fenced this one, and
    `BusError` otherwise; then what became of the transaction is unknown, and the session of no more use.
    """

    async def send(self, records: Sequence[OutRecord], keyless: int) -> None:
        """Begin a transaction and hand its records over; those without a key go to partition `keyless`."""
        ...

    async def add_position(self, group: str, partition: Partition, position: Committed) -> None:
        """Let the group's position move with the transaction."""
        ...

    async def confirm(self) -> None:
        """Return once the broker has every record.

        Raises:
            RecordTooLargeError: it refuses one for its size.
            BatchTooLargeError: it refuses a batch of several for its size.
        """
        ...

    async def commit(self) -> None:
        """Let records and position appear together."""
        ...

    async def stop(self) -> None:
        """Let go, in whatever state it is; the broker aborts what was open when the next one starts."""
        ...


class StartSession(Protocol):
    """How a session begins."""

    async def __call__(self, connection: Connection, *, transactional_id: str, batch_bytes: int) -> Session:
        """Return a session that has fenced the id's older ones and ended their open transaction.

        Raises:
            PartitionLostError: a newer one fenced it meanwhile.
            BusError: the broker refuses, and will refuse again.
        """
        ...


class TransactionalProducer:
    """Exactly once: records and position appear together or not at all.

    aiokafka commits offsets by group name alone, without the member's generation, so the fence is
    the transactional id, which belongs to the input partition.
    """

    def __init__(
        self,
        connection: Connection,
        offsets: CommittedPositions,
        *,
        group: str,
        partition: Partition,
        start: StartSession = start_session,
    ) -> None:
        self._connection = connection
        self._offsets = offsets
        self._group = group
        self._partition = partition
        self._start = start
        self._session: Session | None = None
        self._committed = Committed()
        self._batch_bytes = BATCH_BYTES

    async def open(self) -> Committed:
        """Take the partition over, in this order.

        1. Stop the session of before, whatever state it was left in.
        2. Start the next one: the broker fences older ones and ends their open transaction.
        3. Read the position: from here on only this session can move it.
        """
        await self.close()
        identity = f"{self._group}.{self._partition.topic}.{self._partition.partition}"
        session = await self._start(
            self._connection, transactional_id=identity, batch_bytes=self._batch_bytes
        )
        try:
            committed = (await self._offsets.read([self._partition]))[self._partition]
        except BaseException:
            await session.stop()
            raise
        self._session, self._committed = session, committed
        return committed

    async def publish(self, records: Sequence[OutRecord], offset: int, metadata: str) -> None:
        """Commit the records and the position in one transaction; see `PartitionProducer`."""
        target = Committed(offset, metadata)
        if target == self._committed:
            raise ValueError(f"{self._partition}: position {offset} is already committed")
        if self._session is None and await self._reopen(target):
            return
        session, self._session = cast("Session", self._session), None
        try:
            await self._transact(session, records, target)
        except BaseException as error:  # noqa: BLE001 - `_recover` raises it, unless all was committed
            await session.stop()
            await self._recover(target, error)
        else:
            self._session, self._committed = session, target

    async def close(self) -> None:
        """Stop the session; the broker aborts what it had open when the next one starts."""
        session, self._session = self._session, None
        if session is not None:
            await session.stop()

    async def _transact(self, session: Session, records: Sequence[OutRecord], target: Committed) -> None:
        """Run one transaction, in this order.

        1. Hand over the records.
        2. Add the position, while the records travel.
        3. Wait for every record's acknowledgement: a commit would go through without them.
        4. Commit.
        """
        await session.send(records, self._partition.partition)
        await session.add_position(self._group, self._partition, target)
        await session.confirm()
        await session.commit()

    async def _recover(self, target: Committed, error: BaseException) -> None:
        """Find out what became of a failed transaction, and be open again for the next one.

        A new session makes the broker finish or abort it; the position then says which it was.
        """
        if isinstance(error, BatchTooLargeError):
            self._batch_bytes //= 2
        if isinstance(error, PartitionLostError) or not isinstance(error, BusError):
            raise error
        if await self._reopen(target):
            return
        if isinstance(error, RecordTooLargeError):
            raise error
        log.warning("transaction_aborted", partition=str(self._partition), error=str(error))
        raise bus_error(f"{self._partition}: the transaction was aborted", error) from error

    async def _reopen(self, target: Committed) -> bool:
        """Open after a failure and return whether the position is there that was to be committed.

        If opening fails too, the next attempt to publish begins here.
        """
        before = self._committed
        found = await self.open()
        if found not in {target, before}:
            raise PartitionLostError(f"{self._partition} was moved to {found.offset} by another worker")
        return found == target


class AtLeastOnceProducer:
    """At least once: the position is committed after the records, so a crash may repeat them."""

    def __init__(
        self, connection: Connection, offsets: CommittedPositions, commit: Commit, *, partition: Partition
    ) -> None:
        self._connection = connection
        self._offsets = offsets
        self._commit = commit
        self._partition = partition
        self._producer: Any = None
        self._batch_bytes = BATCH_BYTES

    async def open(self) -> Committed:
        """Start a producer and return the position; nothing is fenced."""
        await self.close()
        try:
            self._producer = await start_producer(
                self._connection, batch_bytes=self._batch_bytes, transactional_id=None
            )
        except KafkaError as error:
            raise bus_error(f"{self._partition}: no producer could be started", error) from error
        return (await self._offsets.read([self._partition]))[self._partition]

    async def publish(self, records: Sequence[OutRecord], offset: int, metadata: str) -> None:
        """Write the records, then commit the position; see `PartitionProducer`.

        Where it says that nothing was committed, some records may have been written nevertheless.
        """
        if self._producer is None:
            await self.open()
        producer, self._producer = self._producer, None
        try:
            deliveries = await send_records(producer, records, self._partition.partition)
            await confirm(producer, deliveries)
        except BaseException as error:
            await stop_producer(producer)
            if isinstance(error, BatchTooLargeError):
                self._batch_bytes //= 2
            elif not isinstance(error, (RecordTooLargeError, *FAILURES)):
                raise
            await self.open()
            if isinstance(error, BusError):
                raise
            raise bus_error(f"{self._partition}: the records were not written", error) from error
        self._producer = producer
        await self._commit(self._partition, offset, metadata)

    async def close(self) -> None:
        """Give up what is not written and close the connections."""
        producer, self._producer = self._producer, None
        if producer is not None:
            await stop_producer(producer)
