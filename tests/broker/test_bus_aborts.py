"""Reading on after a transaction was aborted: its records are hidden, and none of the later ones."""

from __future__ import annotations

import asyncio
from typing import Any

from stream_infer.bus.batches import OutRecord
from stream_infer.bus.connection import Connection
from stream_infer.bus.follower import TopicFollower
from stream_infer.bus.offsets import CommittedOffsets
from stream_infer.bus.sending import BATCH_BYTES, start_producer, stop_producer
from stream_infer.bus.transactions import TransactionalProducer
from stream_infer.schemas import Partition
from tests.broker.conftest import MakeTopic
from tests.broker.test_bus_follower import Reader


async def test_live_reader_sees_what_a_fenced_producers_heir_commits(
    connection: Connection, make_topic: MakeTopic, group: str
) -> None:
    place, target = Partition(await make_topic(), 0), await make_topic()
    async with (
        CommittedOffsets(connection, group) as offsets,
        TopicFollower(connection, [target]) as follower,
    ):
        reader = Reader(follower)
        reading = asyncio.create_task(reader.read())
        zombie = await open_transaction(connection, group, place, target)
        heir = TransactionalProducer(connection, offsets, group=group, partition=place)
        await heir.open()
        for number in range(1, 4):
            await heir.publish([OutRecord(target, None, b"%d" % number)], number, "")
            await reader.wait_for(number)
        await heir.close()
        await stop_producer(zombie)
        reading.cancel()

    assert [b"1", b"2", b"3"] == [record.value for record in reader.records]


async def open_transaction(connection: Connection, group: str, place: Partition, topic: str) -> Any:
    """Return a producer that has written in a transaction and will never end it."""
    identity = f"{group}.{place.topic}.{place.partition}"
    producer = await start_producer(connection, batch_bytes=BATCH_BYTES, transactional_id=identity)
    await producer.begin_transaction()
    await producer.send_and_wait(topic, b"never committed")
    return producer
