"""Writing many records at once: one batch per output partition, which costs a third of one `send` each."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any

import structlog
from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError, MessageSizeTooLargeError, ProducerClosed, RecordListTooLargeError

from stream_infer.bus.batches import OutRecord, Target, group_by_target
from stream_infer.bus.connection import REACH_BACKOFF, TRANSACTION_BACKOFF_MS, Connection
from stream_infer.bus.presence import partition_counts, while_there
from stream_infer.errors import BusError, RecordTooLargeError

BATCH_BYTES = 512 * 1024
"""How large a batch grows; a single record may be larger."""


@dataclass(frozen=True, slots=True)
class Delivery:
    """A batch on its way: the records in it, by index, and what will say that the broker has it."""

    target: Target
    indexes: Sequence[int]
    acknowledged: asyncio.Future[Any]


log = structlog.get_logger(__name__)


class BatchTooLargeError(BusError):
    """The broker takes each record but not so many in one batch: smaller batches may pass."""


async def start_producer(connection: Connection, *, batch_bytes: int, transactional_id: str | None) -> Any:
    """Return a running idempotent producer, however long the broker is out of reach.

    With a transactional id it has fenced the id's older producers and ended their transactions.

    Raises:
        KafkaError: the broker refuses, and will refuse again.
    """
    known = ""
    while True:
        producer = AIOKafkaProducer(
            **connection.arguments,
            enable_idempotence=True,
            transactional_id=transactional_id,
            transaction_timeout_ms=connection.settings.transaction_timeout_ms,
            max_batch_size=batch_bytes,
            retry_backoff_ms=TRANSACTION_BACKOFF_MS,
        )
        producer.client.ready = _patient(producer.client.ready)
        try:
            await producer.start()
        except BaseException as error:
            await stop_producer(producer)
            if not _may_pass(error):
                raise
            if str(error) != known:
                log.warning("producer_waits", transactional_id=transactional_id, error=str(error))
            known = str(error)
            await asyncio.sleep(REACH_BACKOFF)
        else:
            return producer


def _may_pass(error: BaseException) -> bool:
    """Whether a later attempt may succeed: aiokafka wraps some lost connections in a final error."""
    reasons = (error, error.__cause__)
    return any(isinstance(reason, KafkaError) and reason.retriable for reason in reasons)


def _patient(ready: Callable[..., Awaitable[bool]]) -> Callable[..., Awaitable[bool]]:
    """Wait after a broker did not answer: the short backoff is for brokers that do."""

    async def wait_unless_ready(*node: Any, **group: Any) -> bool:
        answered = await ready(*node, **group)
        if not answered:
            await asyncio.sleep(REACH_BACKOFF)
        return answered

    return wait_unless_ready


async def stop_producer(producer: Any) -> None:
    """Close a producer in whatever state it is, without waiting for a broker that may be gone.

    aiokafka has no public way to give up: its `stop` waits until all that was begun has succeeded.

    1. Cancel the tasks of its sender.
    2. Fail what was never sent, so that its flush ends.
    3. Take note of the failures that nobody awaits, or asyncio would report them.
    4. Close the connections.
    """
    sender, unsent, state = producer._sender, producer._message_accumulator, producer._txn_manager  # noqa: SLF001
    tasks = [task for task in asyncio.all_tasks() if _belongs_to(task, sender)]
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    unsent.fail_all(ProducerClosed())
    waiters = [batch._drain_waiter for queue in unsent._batches.values() for batch in queue]  # noqa: SLF001
    for waiter in (*waiters, state.wait_for_transaction_end()):
        if waiter is not None and waiter.done():
            _mark_retrieved(waiter)
    await producer.stop()


def _belongs_to(task: asyncio.Task[Any], sender: object) -> bool:
    frame = getattr(task.get_coro(), "cr_frame", None)
    return frame is not None and frame.f_locals.get("self") is sender


async def send_records(producer: Any, records: Sequence[OutRecord], keyless: int) -> list[Delivery]:
    """Hand all records over to the producer; `confirm` tells whether they arrived.

    Records without a key go to partition `keyless` modulo each topic's count.

    Raises:
        BusError: a topic is not there.
    """
    counts = await partition_counts(producer.client, {record.topic for record in records})
    deliveries = []
    for target, indexes in group_by_target(records, counts, keyless).items():
        topic, partition = target
        for builder, packed in _pack(producer, records, indexes):
            acknowledged = await producer.send_batch(builder, topic, partition=partition)
            acknowledged.add_done_callback(_mark_retrieved)
            deliveries.append(Delivery(target, packed, acknowledged))
    return deliveries


async def confirm(producer: Any, deliveries: Sequence[Delivery]) -> None:
    """Return once the broker has every record.

    Raises:
        BusError: a topic is not there any more.
        RecordTooLargeError: it refuses one for its size.
        BatchTooLargeError: it refuses a batch of several for its size.
        KafkaError: it refuses otherwise.
    """
    await while_delivered(producer, deliveries, _all_done([each.acknowledged for each in deliveries]))
    for delivery in deliveries:
        failure = delivery.acknowledged.exception()
        if isinstance(failure, MessageSizeTooLargeError | RecordListTooLargeError):
            if len(delivery.indexes) > 1:
                raise BatchTooLargeError(f"the broker refuses a batch of {len(delivery.indexes)} records")
            raise RecordTooLargeError("the broker refuses a record for its size", delivery.indexes[0])
        if failure is not None:
            raise failure


async def while_delivered(
    producer: Any, deliveries: Sequence[Delivery], step: Coroutine[Any, Any, None]
) -> None:
    """Take a step that waits for records on their way, unless a topic of theirs is not there any more.

    Raises:
        BusError: so it is.
    """
    await while_there(producer.client, {each.target for each in deliveries}, step)


async def _all_done(futures: Sequence[asyncio.Future[Any]]) -> None:
    """Return once all have their outcome, whatever it is."""
    if futures:
        await asyncio.wait(futures)


def _pack(producer: Any, records: Sequence[OutRecord], indexes: list[int]) -> list[tuple[Any, list[int]]]:
    batches: list[tuple[Any, list[int]]] = [(producer.create_batch(), [])]
    for index in indexes:
        if not _append(batches[-1][0], records[index]):
            batches.append((producer.create_batch(), []))
            _append(batches[-1][0], records[index])
        batches[-1][1].append(index)
    batches[-1][0].close()
    return batches


def _append(builder: Any, record: OutRecord) -> bool:
    appended = builder.append(timestamp=None, key=record.key, value=record.value, headers=record.headers)
    return appended is not None


def _mark_retrieved(future: asyncio.Future[Any]) -> None:
    """Keep asyncio from reporting an error that nobody was left to raise."""
    if not future.cancelled():
        future.exception()
