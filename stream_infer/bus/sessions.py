"""A running aiokafka producer under a transactional id, and what its errors mean."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from aiokafka import TopicPartition
from aiokafka.errors import IllegalOperation, InvalidProducerEpoch, KafkaError, ProducerFenced
from aiokafka.structs import OffsetAndMetadata

from stream_infer.bus.batches import OutRecord
from stream_infer.bus.connection import REFUSALS, Connection, bus_error
from stream_infer.bus.offsets import Committed
from stream_infer.bus.sending import (
    Delivery,
    confirm,
    send_records,
    start_producer,
    stop_producer,
    while_delivered,
)
from stream_infer.errors import BusError, PartitionLostError
from stream_infer.schemas import Partition

_FENCED = (ProducerFenced, InvalidProducerEpoch)
FAILURES = (KafkaError, IllegalOperation, AssertionError)
"""What aiokafka raises; its state machine asserts where a failed sender meets a running transaction."""


async def start_session(
    connection: Connection, *, transactional_id: str, batch_bytes: int
) -> ProducerSession:
    """Return a session that has fenced the id's older ones; see `StartSession`."""
    try:
        producer = await start_producer(
            connection, batch_bytes=batch_bytes, transactional_id=transactional_id
        )
    except _FENCED as error:
        raise PartitionLostError(f"{transactional_id} was taken by another worker") from error
    except KafkaError as error:
        raise bus_error(f"{transactional_id}: no producer could be started", error) from error
    return ProducerSession(producer, transactional_id)


class ProducerSession:
    """One transaction after the other, until a newer session of the id fences this one; see `Session`."""

    def __init__(self, producer: Any, transactional_id: str) -> None:
        self._producer = producer
        self._id = transactional_id
        self._deliveries: list[Delivery] = []

    async def send(self, records: Sequence[OutRecord], keyless: int) -> None:
        """Begin a transaction and hand its records over."""
        with self._judging():
            await self._producer.begin_transaction()
            self._deliveries = await send_records(self._producer, records, keyless)

    async def add_position(self, group: str, partition: Partition, position: Committed) -> None:
        """Let the group's position move with the transaction."""
        place = TopicPartition(partition.topic, partition.partition)
        with self._judging():
            adding = self._producer.send_offsets_to_transaction(
                {place: OffsetAndMetadata(position.offset, position.metadata)}, group
            )
            # aiokafka adds the output partitions to the transaction first, however long they are missing.
            await while_delivered(self._producer, self._deliveries, adding)

    async def confirm(self) -> None:
        """Return once the broker has every record."""
        with self._judging():
            await confirm(self._producer, self._deliveries)

    async def commit(self) -> None:
        """Let records and position appear."""
        with self._judging():
            await self._producer.commit_transaction()

    async def stop(self) -> None:
        """Close the connections; what is open is aborted when the next session of the id starts."""
        await stop_producer(self._producer)

    @contextmanager
    def _judging(self) -> Iterator[None]:
        """Tell a fence from other failures. A cancellation stays one, whatever the broker said."""
        try:
            yield
        except (BusError, *FAILURES) as error:
            reasons = self._reasons(error)
            if any(isinstance(reason, _FENCED) for reason in reasons):
                raise PartitionLostError(f"{self._id} was taken by another worker") from error
            if isinstance(error, BusError):
                raise
            cause = next((reason for reason in reasons if isinstance(reason, REFUSALS)), error)
            raise BusError(str(cause) or type(cause).__name__) from cause

    def _reasons(self, error: BaseException) -> list[BaseException | None]:
        """Return what the broker may have said: it is in the error, or in what ended the sender."""
        sender = self._producer._sender.sender_task  # noqa: SLF001 - the reason is nowhere else
        ending = sender.exception() if sender.done() and not sender.cancelled() else None
        return [error, error.__cause__, ending, ending and ending.__cause__]
