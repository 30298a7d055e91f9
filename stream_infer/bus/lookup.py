"""Single records read again by their places, wherever in a topic these lie."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Mapping
from typing import Any

from aiokafka import TopicPartition
from aiokafka.errors import KafkaError, OffsetOutOfRangeError

from stream_infer.bus.connection import Connection, bus_error
from stream_infer.bus.consumer import make_consumer, partitions_of
from stream_infer.bus.source import to_record
from stream_infer.schemas import Partition, Record

FETCH_BYTES = 64 * 1024
"""What one look brings: little, because the next place may be far; a record that is larger comes whole."""
POLL_MS = 1_000


async def read_at(
    connection: Connection, offsets: Mapping[Partition, Collection[int]], take: Callable[[Record], None]
) -> None:
    """Hand the committed records at these offsets to `take`; what is not there any more is passed over.

    Raises:
        AccessRefusedError: the broker does not let this client read a topic.
        BusError: the broker is out of reach or refuses.
    """
    if not offsets:
        return
    topics = {partition.topic for partition in offsets}
    consumer = make_consumer(connection.arguments, max_partition_fetch_bytes=FETCH_BYTES)
    try:
        await consumer.start()
        for target in await partitions_of(consumer, topics):
            wanted = offsets.get(Partition(target.topic, target.partition), ())
            await _read_partition(consumer, target, wanted, take)
    except KafkaError as error:
        raise bus_error(f"cannot read {', '.join(sorted(topics))}", error) from error
    finally:
        await consumer.stop()


async def _read_partition(
    consumer: Any, target: TopicPartition, offsets: Collection[int], take: Callable[[Record], None]
) -> None:
    consumer.assign([target])
    begin = (await consumer.beginning_offsets([target]))[target]
    end = (await consumer.end_offsets([target]))[target]
    wanted = deque(sorted(offset for offset in set(offsets) if begin <= offset < end))
    while wanted:
        consumer.seek(target, wanted[0])
        found = await _read_some(consumer, target, end)
        # Nothing can be read from here to the end: what was there is gone.
        last = found[-1].offset if found else end
        places = {place for place in wanted if place <= last}
        for record in found:
            if record.offset in places:
                take(record)
        for _ in places:
            wanted.popleft()


async def _read_some(consumer: Any, target: TopicPartition, end: int) -> list[Record]:
    """Return the next records; none if there are no more before the end, or the oldest went meanwhile."""
    try:
        while await consumer.position(target) < end:
            if messages := (await consumer.getmany(target, timeout_ms=POLL_MS)).get(target):
                return [to_record(message) for message in messages]
    except OffsetOutOfRangeError:
        pass
    return []
