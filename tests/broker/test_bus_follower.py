"""Following a topic: all that was there, then all that comes."""

import asyncio

import pytest
from aiokafka import AIOKafkaProducer

from loadgen.kafka.brokers import Broker
from stream_infer.bus.batches import OutRecord
from stream_infer.bus.connection import Connection
from stream_infer.bus.follower import TopicFollower, read_present
from stream_infer.bus.publisher import Publisher
from stream_infer.errors import ConfigError, RecordTooLargeError
from stream_infer.schemas import Record
from tests.broker.conftest import MakeTopic
from tests.broker.probes import PATIENCE, read_values, write


class Reader:
    """Reads a follower in the background and can be waited on."""

    def __init__(self, follower: TopicFollower) -> None:
        self.follower = follower
        self.records: list[Record] = []
        self._grown = asyncio.Event()

    async def read(self) -> None:
        """Collect for as long as it is not cancelled."""
        async for records in self.follower:
            self.records += records
            self._grown.set()

    async def wait_for(self, count: int) -> list[bytes | None]:
        """Return the values read so far once there are `count` of them."""
        async with asyncio.timeout(PATIENCE):
            while len(self.records) < count:
                self._grown.clear()
                await self._grown.wait()
        return [record.value for record in self.records]


async def test_it_catches_up_and_stays_live(connection: Connection, make_topic: MakeTopic) -> None:
    topic = await make_topic(partitions=2, cleanup_policy="compact")
    await write(connection, topic, [b"%d" % index for index in range(100)], key=b"k")
    async with TopicFollower(connection, [topic]) as follower, asyncio.TaskGroup() as tasks:
        reader = Reader(follower)
        reading = tasks.create_task(reader.read())
        async with asyncio.timeout(PATIENCE):
            await follower.caught_up.wait()
        assert [b"%d" % index for index in range(100)] == [record.value for record in reader.records]

        await write(connection, topic, [b"live"], key=b"k")

        assert b"live" == (await reader.wait_for(101))[-1]
        reading.cancel()


async def test_an_empty_topic_is_caught_up_with_at_once(
    connection: Connection, make_topic: MakeTopic
) -> None:
    async with TopicFollower(connection, [await make_topic()]) as follower, asyncio.TaskGroup() as tasks:
        reading = tasks.create_task(Reader(follower).read())
        async with asyncio.timeout(PATIENCE):
            await follower.caught_up.wait()
        reading.cancel()


async def test_caught_up_waits_for_the_reader_to_handle_what_it_was_given(
    connection: Connection, make_topic: MakeTopic
) -> None:
    topic = await make_topic()
    await write(connection, topic, [b"a"])
    async with TopicFollower(connection, [topic]) as follower:
        async for records in follower:
            assert [b"a"] == [record.value for record in records]
            assert not follower.caught_up.is_set()
            break


async def test_deleted_keys_come_as_records_without_value(
    connection: Connection, make_topic: MakeTopic
) -> None:
    topic = await make_topic(cleanup_policy="compact")
    async with Publisher(connection) as publisher:
        await publisher.publish([OutRecord(topic, b"k", b"v"), OutRecord(topic, b"k", None)])

    assert [b"v", None] == await read_values(connection, topic)


async def test_from_the_end_only_what_comes_is_seen(connection: Connection, make_topic: MakeTopic) -> None:
    """What is written after entering is seen, even before the first read."""
    topic = await make_topic()
    await write(connection, topic, [b"old"])
    async with TopicFollower(connection, [topic], start="end") as follower, asyncio.TaskGroup() as tasks:
        await write(connection, topic, [b"new"])
        reader = Reader(follower)
        reading = tasks.create_task(reader.read())

        assert [b"new"] == await reader.wait_for(1)
        reading.cancel()


async def test_it_outlives_a_restart_of_the_broker(
    broker: Broker, connection: Connection, make_topic: MakeTopic
) -> None:
    topic = await make_topic()
    await write(connection, topic, [b"before"])
    async with TopicFollower(connection, [topic]) as follower, asyncio.TaskGroup() as tasks:
        reader = Reader(follower)
        reading = tasks.create_task(reader.read())
        await reader.wait_for(1)
        await broker.stop()
        await broker.start()
        await write(connection, topic, [b"after"])

        assert [b"before", b"after"] == await reader.wait_for(2)
        reading.cancel()


async def test_a_missing_topic_is_named(connection: Connection) -> None:
    with pytest.raises(ConfigError, match="no-such-topic"):
        await TopicFollower(connection, ["no-such-topic"]).__aenter__()


async def test_a_publisher_goes_on_after_a_record_too_large(
    connection: Connection, make_topic: MakeTopic
) -> None:
    topic = await make_topic()
    async with Publisher(connection) as publisher:
        with pytest.raises(RecordTooLargeError):
            await publisher.publish([OutRecord(topic, None, b"x" * 3_000_000)])
        await publisher.publish([OutRecord(topic, None, b"small")])

    assert [b"small"] == await read_values(connection, topic)


async def test_what_is_present_includes_a_commit_that_is_on_its_way(
    connection: Connection, make_topic: MakeTopic, group: str
) -> None:
    """Kafka answers a commit before it can be read: whoever was told of it must find it."""
    topic = await make_topic()
    producer = AIOKafkaProducer(**connection.arguments, transactional_id=group)
    found: list[Record] = []
    async with asyncio.timeout(PATIENCE), producer, asyncio.TaskGroup() as tasks:
        await producer.begin_transaction()
        await producer.send_and_wait(topic, b"committed")
        reading = tasks.create_task(read_present(connection, [topic], found.extend))
        await asyncio.wait({reading}, timeout=1.0)
        await producer.commit_transaction()

    assert [b"committed"] == [record.value for record in found]
