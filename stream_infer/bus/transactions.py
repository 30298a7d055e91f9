"""The output side of the bus: outcomes, and the input position they answer for, written together."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol

import structlog
from aiokafka import TopicPartition
from aiokafka.errors import IllegalOperation, InvalidProducerEpoch, KafkaError, ProducerFenced
from aiokafka.structs import OffsetAndMetadata

from stream_infer.bus.batches import OutRecord
from stream_infer.bus.connection import Connection
from stream_infer.bus.offsets import Committed, CommittedOffsets
from stream_infer.bus.sending import (
    BATCH_BYTES,
    BatchTooLargeError,
    confirm,
    send_records,
    start_producer,
    stop_producer,
)
from stream_infer.errors import BusError, PartitionLostError, RecordTooLargeError
from stream_infer.schemas import Partition

Commit = Callable[[Partition, int, str], Awaitable[None]]

_FENCED = (ProducerFenced, InvalidProducerEpoch)
_FAILURES = (KafkaError, IllegalOperation, AssertionError)
"""What aiokafka raises; its state machine asserts where a failed sender meets a running transaction."""

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
            BusError: nothing was committed; publish the same again.
        """
        ...

    async def close(self) -> None:
        """Give up what is not published and close the connections."""
        ...


class TransactionalProducer:
    """Exactly once: records and position appear together or not at all.

    aiokafka commits offsets by group name alone, without the member's generation, so the fence is
    the transactional id, which belongs to the input partition.
    """

    def __init__(
        self, connection: Connection, offsets: CommittedOffsets, *, group: str, partition: Partition
    ) -> None:
        self._connection = connection
        self._offsets = offsets
        self._group = group
        self._partition = partition
        self._producer: Any = None
        self._committed = Committed()
        self._batch_bytes = BATCH_BYTES

    async def open(self) -> Committed:
        """Take the partition over, in this order.

        1. Close the producer of before, whatever state it was left in.
        2. Start the next one: the broker fences older producers and ends their open transaction.
        3. Read the position: from here on only this producer can move it.
        """
        await self.close()
        identity = f"{self._group}.{self._partition.topic}.{self._partition.partition}"
        try:
            producer = await start_producer(
                self._connection, batch_bytes=self._batch_bytes, transactional_id=identity
            )
        except _FENCED as error:
            raise PartitionLostError(f"{self._partition} was taken by another worker") from error
        except KafkaError as error:
            raise BusError(f"{self._partition}: no producer could be started: {error}") from error
        try:
            committed = (await self._offsets.read([self._partition]))[self._partition]
        except BaseException:
            await stop_producer(producer)
            raise
        self._producer, self._committed = producer, committed
        return committed

    async def publish(self, records: Sequence[OutRecord], offset: int, metadata: str) -> None:
        """Commit the records and the position in one transaction; see `PartitionProducer`."""
        target = Committed(offset, metadata)
        if target == self._committed:
            raise ValueError(f"{self._partition}: position {offset} is already committed")
        if self._producer is None and await self._reopen(target):
            return
        producer, self._producer = self._producer, None
        try:
            await self._transact(producer, records, target)
        except BaseException as error:
            fenced = _is_fenced(producer, error)
            await stop_producer(producer)
            if fenced:
                raise PartitionLostError(f"{self._partition} was taken by another worker") from error
            await self._recover(target, error)
        else:
            self._producer, self._committed = producer, target

    async def close(self) -> None:
        """Close the producer; the broker aborts what it had open when the next one starts."""
        producer, self._producer = self._producer, None
        if producer is not None:
            await stop_producer(producer)

    async def _transact(self, producer: Any, records: Sequence[OutRecord], target: Committed) -> None:
        """Run one transaction, in this order.

        1. Hand over the records.
        2. Add the position, while the records travel.
        3. Wait for every record's acknowledgement: a commit would go through without them.
        4. Commit.
        """
        await producer.begin_transaction()
        deliveries = await send_records(producer, records, self._partition.partition)
        place = TopicPartition(self._partition.topic, self._partition.partition)
        position = OffsetAndMetadata(target.offset, target.metadata)
        await producer.send_offsets_to_transaction({place: position}, self._group)
        await confirm(deliveries)
        await producer.commit_transaction()

    async def _recover(self, target: Committed, error: BaseException) -> None:
        """Find out what became of a failed transaction, and be open again for the next one.

        A new producer makes the broker finish or abort it; the position then says which it was.
        """
        if isinstance(error, BatchTooLargeError):
            self._batch_bytes //= 2
        elif not isinstance(error, (RecordTooLargeError, *_FAILURES)):
            raise error
        if await self._reopen(target):
            return
        if isinstance(error, RecordTooLargeError):
            raise error
        log.warning("transaction_aborted", partition=str(self._partition), error=str(error))
        raise BusError(f"{self._partition}: the transaction was aborted: {error}") from error

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
        self, connection: Connection, offsets: CommittedOffsets, commit: Commit, *, partition: Partition
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
            raise BusError(f"{self._partition}: no producer could be started: {error}") from error
        return (await self._offsets.read([self._partition]))[self._partition]

    async def publish(self, records: Sequence[OutRecord], offset: int, metadata: str) -> None:
        """Write the records, then commit the position; see `PartitionProducer`.

        Where it says that nothing was committed, some records may have been written nevertheless.
        """
        if self._producer is None:
            await self.open()
        producer, self._producer = self._producer, None
        try:
            await confirm(await send_records(producer, records, self._partition.partition))
        except BaseException as error:
            await stop_producer(producer)
            if isinstance(error, BatchTooLargeError):
                self._batch_bytes //= 2
            elif not isinstance(error, (RecordTooLargeError, *_FAILURES)):
                raise
            await self.open()
            if isinstance(error, BusError):
                raise
            raise BusError(f"{self._partition}: the records were not written: {error}") from error
        self._producer = producer
        await self._commit(self._partition, offset, metadata)

    async def close(self) -> None:
        """Give up what is not written and close the connections."""
        producer, self._producer = self._producer, None
        if producer is not None:
            await stop_producer(producer)


def _is_fenced(producer: Any, error: BaseException) -> bool:
    """Whether the broker turned the producer away, seen in the error or in what ended its sender."""
    sender = producer._sender.sender_task  # noqa: SLF001 - the reason is nowhere else
    ending = sender.exception() if sender.done() and not sender.cancelled() else None
    reasons = [error, error.__cause__, ending, ending and ending.__cause__]
    return any(isinstance(reason, _FENCED) for reason in reasons)
