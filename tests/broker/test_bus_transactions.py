"""Exactly once at the bus: what is published is there once, with its position, whoever dies when."""

import asyncio
import signal
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import pytest_asyncio
from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaConnectionError, KafkaError

from loadgen.kafka.brokers import Broker
from stream_infer.bus import sessions
from stream_infer.bus.batches import OutRecord, key_hash
from stream_infer.bus.connection import Connection
from stream_infer.bus.offsets import Committed, CommittedOffsets
from stream_infer.bus.transactions import AtLeastOnceProducer, TransactionalProducer
from stream_infer.errors import BusError, PartitionLostError, RecordTooLargeError
from stream_infer.schemas import Partition
from tests.broker.conftest import MakeTopic
from tests.broker.probes import PATIENCE, read_committed, read_values

MakeProducer = Callable[[str], TransactionalProducer]


@pytest_asyncio.fixture(loop_scope="session")
async def offsets(connection: Connection, group: str) -> AsyncIterator[CommittedOffsets]:
    async with CommittedOffsets(connection, group) as offsets:
        yield offsets


@pytest_asyncio.fixture(loop_scope="session")
async def make_producer(
    connection: Connection, offsets: CommittedOffsets, group: str
) -> AsyncIterator[MakeProducer]:
    """Makes producers for partition 0 of a topic, and closes them."""
    made: list[TransactionalProducer] = []

    def make(topic: str) -> TransactionalProducer:
        made.append(TransactionalProducer(connection, offsets, group=group, partition=Partition(topic, 0)))
        return made[-1]

    yield make
    for producer in made:
        await producer.close()


def records(topic: str, *values: bytes, key: bytes | None = b"key") -> list[OutRecord]:
    return [OutRecord(topic, key, value) for value in values]


async def test_a_new_partition_has_no_position(make_topic: MakeTopic, make_producer: MakeProducer) -> None:
    producer = make_producer(await make_topic())

    assert Committed(None, "") == await producer.open()


async def test_records_and_position_are_committed_together(
    connection: Connection, make_topic: MakeTopic, make_producer: MakeProducer
) -> None:
    inputs, outputs = await make_topic(), await make_topic(partitions=3)
    producer = make_producer(inputs)
    await producer.open()

    await producer.publish([OutRecord(outputs, b"k", b"v", [("name", b"text"), ("none", None)])], 5, "meta")

    (record,) = await read_committed(connection, outputs)
    assert (b"k", b"v", (("name", b"text"), ("none", None))) == (record.key, record.value, record.headers)
    assert Committed(5, "meta") == await make_producer(inputs).open()


async def test_metadata_of_four_kilobytes_comes_back(
    make_topic: MakeTopic, make_producer: MakeProducer
) -> None:
    inputs = await make_topic()
    metadata = "".join(chr(33 + index % 90) for index in range(4_096))
    producer = make_producer(inputs)
    await producer.open()

    await producer.publish([], 7, metadata)

    assert Committed(7, metadata) == await make_producer(inputs).open()


async def test_a_position_may_change_in_its_metadata_alone(
    make_topic: MakeTopic, make_producer: MakeProducer
) -> None:
    """Records done out of order leave the offset where it is."""
    inputs, outputs = await make_topic(), await make_topic()
    producer = make_producer(inputs)
    await producer.open()

    await producer.publish(records(outputs, b"second"), 0, "1")
    await producer.publish(records(outputs, b"third"), 0, "1-2")

    assert Committed(0, "1-2") == await producer.open()


async def test_the_same_position_twice_is_refused(make_topic: MakeTopic, make_producer: MakeProducer) -> None:
    """Were it allowed, a lost answer to the commit could not be told from a lost commit."""
    inputs, outputs = await make_topic(), await make_topic()
    producer = make_producer(inputs)
    await producer.open()
    await producer.publish(records(outputs, b"once"), 1, "")

    with pytest.raises(ValueError, match="already committed"):
        await producer.publish(records(outputs, b"twice"), 1, "")


async def test_a_fenced_producer_cannot_publish(
    connection: Connection, make_topic: MakeTopic, make_producer: MakeProducer
) -> None:
    inputs, outputs = await make_topic(), await make_topic()
    zombie, owner = make_producer(inputs), make_producer(inputs)
    await zombie.open()
    await zombie.publish(records(outputs, b"before"), 1, "")

    assert Committed(1, "") == await owner.open()
    with pytest.raises(PartitionLostError):
        await zombie.publish(records(outputs, b"zombie"), 2, "")
    await owner.publish(records(outputs, b"after"), 2, "")

    assert [b"before", b"after"] == await read_values(connection, outputs)


async def test_a_fenced_producer_may_open_again(make_topic: MakeTopic, make_producer: MakeProducer) -> None:
    """A transaction timed out by the broker looks like a fence; the owner goes on after it."""
    inputs, outputs = await make_topic(), await make_topic()
    first, second = make_producer(inputs), make_producer(inputs)
    await first.open()
    await second.open()
    await second.publish(records(outputs, b"a"), 1, "x")
    with pytest.raises(PartitionLostError):
        await first.publish(records(outputs, b"b"), 2, "")

    assert Committed(1, "x") == await first.open()
    await first.publish(records(outputs, b"b"), 2, "")


async def test_the_open_transaction_of_a_dead_worker_is_aborted(
    connection: Connection, group: str, make_topic: MakeTopic, make_producer: MakeProducer
) -> None:
    """A worker killed in mid-transaction leaves nothing behind that readers see or wait for."""
    inputs, outputs = await make_topic(), await make_topic()
    dead = AIOKafkaProducer(**connection.arguments, transactional_id=f"{group}.{inputs}.0")
    async with dead:
        await dead.begin_transaction()
        await dead.send_and_wait(outputs, b"never committed")
        owner = make_producer(inputs)
        await owner.open()
        await owner.publish(records(outputs, b"committed"), 1, "")

        assert [b"committed"] == await read_values(connection, outputs)


async def test_the_producer_survives_a_cancelled_publish(
    connection: Connection, make_topic: MakeTopic, make_producer: MakeProducer
) -> None:
    """Wherever the publish was cut off, opening tells whether it counts."""
    inputs, outputs = await make_topic(), await make_topic(partitions=2)
    producer = make_producer(inputs)
    expected = []
    position = await producer.open()
    for attempt in range(12):
        value = b"%d" % attempt
        publishing = asyncio.create_task(producer.publish(records(outputs, value), attempt + 1, ""))
        for _ in range(attempt * 2):
            await asyncio.sleep(0)
        publishing.cancel()
        await asyncio.gather(publishing, return_exceptions=True)
        before, position = position, await producer.open()
        if position != before:
            expected.append(value)

    assert expected == await read_values(connection, outputs)


@pytest.mark.parametrize("lost", ["before", "after"])
async def test_a_lost_answer_to_the_commit_is_resolved(
    lost: str,
    connection: Connection,
    make_topic: MakeTopic,
    make_producer: MakeProducer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """If the commit reached the broker the publish succeeds, otherwise it may be repeated."""
    inputs, outputs = await make_topic(), await make_topic()
    producer = make_producer(inputs)
    await producer.open()
    commit = AIOKafkaProducer.commit_transaction

    async def losing(self: Any) -> None:
        monkeypatch.undo()
        if lost == "after":
            await commit(self)
        raise KafkaConnectionError("the connection broke")

    monkeypatch.setattr(AIOKafkaProducer, "commit_transaction", losing)

    if lost == "before":
        with pytest.raises(BusError, match="aborted"):
            await producer.publish(records(outputs, b"once"), 1, "")
    await producer.publish(records(outputs, b"once"), 1, "")

    assert [b"once"] == await read_values(connection, outputs)


@pytest.mark.parametrize("lost", ["before", "after"])
async def test_publishing_opens_again_where_recovery_failed(
    lost: str,
    connection: Connection,
    make_topic: MakeTopic,
    make_producer: MakeProducer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The answer to the commit is lost, and no new producer starts: the next attempt finds out."""
    inputs, outputs = await make_topic(), await make_topic()
    producer = make_producer(inputs)
    await producer.open()
    commit = AIOKafkaProducer.commit_transaction

    async def losing(self: Any) -> None:
        if lost == "after":
            await commit(self)
        raise KafkaConnectionError("the connection broke")

    async def refusing(*_: Any, **__: Any) -> None:
        raise KafkaError("no coordinator")

    with monkeypatch.context() as broken:
        broken.setattr(AIOKafkaProducer, "commit_transaction", losing)
        broken.setattr(sessions, "start_producer", refusing)
        for _ in range(2):
            with pytest.raises(BusError, match="no producer could be started"):
                await producer.publish(records(outputs, b"once"), 1, "")
    await producer.publish(records(outputs, b"once"), 1, "")
    await producer.publish(records(outputs, b"next"), 2, "")

    assert [b"once", b"next"] == await read_values(connection, outputs)


async def test_a_lost_coordinator_is_asked_for_again(
    make_topic: MakeTopic,
    make_producer: MakeProducer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The library makes a final error of the connection that broke while it asked."""
    start = AIOKafkaProducer.start
    starts = []

    async def breaking(self: Any) -> None:
        starts.append(self)
        if len(starts) == 1:
            raise KafkaError("no coordinator") from KafkaConnectionError("the connection broke")
        await start(self)

    monkeypatch.setattr(AIOKafkaProducer, "start", breaking)

    assert Committed(None, "") == await make_producer(await make_topic()).open()
    assert 2 == len(starts)


async def test_a_record_too_large_is_named_and_the_others_are_not_committed(
    connection: Connection, make_topic: MakeTopic, make_producer: MakeProducer
) -> None:
    inputs, outputs = await make_topic(), await make_topic()
    producer = make_producer(inputs)
    await producer.open()
    batch = records(outputs, b"first", b"x" * 3_000_000, b"last")

    with pytest.raises(RecordTooLargeError) as raised:
        await producer.publish(batch, 3, "")
    assert 1 == raised.value.index
    assert [] == await read_values(connection, outputs)

    await producer.publish([batch[0], batch[2]], 3, "")
    assert [b"first", b"last"] == await read_values(connection, outputs)


async def test_a_topic_with_a_small_limit_gets_smaller_batches(
    connection: Connection, make_topic: MakeTopic, make_producer: MakeProducer
) -> None:
    inputs, outputs = await make_topic(), await make_topic(max_message_bytes=50_000)
    producer = make_producer(inputs)
    await producer.open()
    batch = records(outputs, *[b"%d" % index + b"." * 1_000 for index in range(200)])

    for _ in range(10):
        try:
            await producer.publish(batch, 1, "")
            break
        except RecordTooLargeError:
            raise
        except BusError:
            continue

    assert [record.value for record in batch] == await read_values(connection, outputs)


async def test_many_records_of_one_key_keep_their_order(
    connection: Connection, make_topic: MakeTopic, make_producer: MakeProducer
) -> None:
    inputs, outputs = await make_topic(), await make_topic(partitions=4)
    producer = make_producer(inputs)
    await producer.open()
    batch = records(outputs, *[b"%d" % index + b"." * 1_000 for index in range(2_000)])

    await producer.publish(batch, 1, "")

    found = await read_committed(connection, outputs)
    assert [record.value for record in batch] == [record.value for record in found]
    assert {key_hash(b"key") % 4} == {record.partition for record in found}


async def test_records_without_a_key_follow_their_input_partition(
    connection: Connection, offsets: CommittedOffsets, group: str, make_topic: MakeTopic
) -> None:
    inputs, outputs = await make_topic(partitions=3), await make_topic(partitions=2)
    producer = TransactionalProducer(connection, offsets, group=group, partition=Partition(inputs, 2))
    try:
        await producer.open()
        await producer.publish(records(outputs, b"a", b"b", key=None), 1, "")
    finally:
        await producer.close()

    assert [0, 0] == [record.partition for record in await read_committed(connection, outputs)]


async def test_a_publish_outlives_a_restart_of_the_broker(
    broker: Broker, connection: Connection, make_topic: MakeTopic, make_producer: MakeProducer
) -> None:
    inputs, outputs = await make_topic(), await make_topic()
    producer = make_producer(inputs)
    await producer.open()
    await producer.publish(records(outputs, b"before"), 1, "")
    await broker.stop()
    publishing = asyncio.create_task(producer.publish(records(outputs, b"during"), 2, ""))
    await broker.start()

    async with asyncio.timeout(PATIENCE):
        try:
            await publishing
        except PartitionLostError:
            assert Committed(1, "") == await producer.open()
            await producer.publish(records(outputs, b"during"), 2, "")

    assert [b"before", b"during"] == await read_values(connection, outputs)


async def test_every_record_is_there_once_however_the_broker_ends(
    broker: Broker,
    broker_kind: str,
    connection: Connection,
    make_topic: MakeTopic,
    make_producer: MakeProducer,
) -> None:
    if broker_kind == "embedded":
        pytest.skip("the embedded broker forgets transactions that are open when it ends")
    inputs, outputs = await make_topic(), await make_topic(partitions=2)
    producer = make_producer(inputs)
    expected = [b"%d" % index for index in range(150)]

    async def publish(position: int) -> None:
        batch = [OutRecord(outputs, b"%d" % copy, expected[position]) for copy in (0, 4)]
        await producer.publish(batch, position + 1, "")

    async def publish_all() -> None:
        position = (await producer.open()).offset or 0
        while position < len(expected):
            try:
                await publish(position)
                position += 1
                published.set()
            except PartitionLostError:
                position = (await producer.open()).offset or 0
            except BusError:
                continue

    published = asyncio.Event()
    async with asyncio.timeout(PATIENCE * 3), asyncio.TaskGroup() as tasks:
        tasks.create_task(publish_all())
        for number in (signal.SIGKILL, signal.SIGTERM):
            published.clear()
            await published.wait()
            await broker.stop(number)
            await broker.start()

    found = await read_committed(connection, outputs)
    assert {b"0": expected, b"4": expected} == {
        key: [record.value for record in found if record.key == key] for key in (b"0", b"4")
    }


async def test_a_producer_closes_while_the_broker_is_gone(
    broker: Broker, make_topic: MakeTopic, make_producer: MakeProducer, caplog: pytest.LogCaptureFixture
) -> None:
    """It does not hammer on the broker's door either."""
    inputs, outputs = await make_topic(), await make_topic()
    producer = make_producer(inputs)
    await producer.open()
    await broker.stop()
    try:
        publishing = asyncio.create_task(producer.publish(records(outputs, b"never"), 1, ""))
        await asyncio.wait([publishing], timeout=0.3)
        assert not publishing.done()
        publishing.cancel()
        async with asyncio.timeout(PATIENCE):
            await asyncio.gather(publishing, return_exceptions=True)
            await producer.close()
        assert len(caplog.records) < 50
    finally:
        await broker.start()


async def test_at_least_once_commits_after_the_records(
    connection: Connection, offsets: CommittedOffsets, make_topic: MakeTopic
) -> None:
    inputs, outputs = await make_topic(), await make_topic()
    committed: list[tuple[Partition, int, str]] = []

    async def commit(partition: Partition, offset: int, metadata: str) -> None:
        assert [b"a", b"b"] == await read_values(connection, outputs)
        committed.append((partition, offset, metadata))

    producer = AtLeastOnceProducer(connection, offsets, commit, partition=Partition(inputs, 0))
    try:
        assert Committed() == await producer.open()
        await producer.publish(records(outputs, b"a", b"b"), 2, "meta")
    finally:
        await producer.close()

    assert [(Partition(inputs, 0), 2, "meta")] == committed


async def test_at_least_once_names_a_record_too_large(
    connection: Connection, offsets: CommittedOffsets, make_topic: MakeTopic
) -> None:
    inputs, outputs = await make_topic(), await make_topic()

    async def commit(_partition: Partition, _offset: int, _metadata: str) -> None: ...

    producer = AtLeastOnceProducer(connection, offsets, commit, partition=Partition(inputs, 0))
    try:
        await producer.open()
        with pytest.raises(RecordTooLargeError) as raised:
            await producer.publish(records(outputs, b"x" * 3_000_000), 1, "")
        assert 0 == raised.value.index
        await producer.publish(records(outputs, b"small"), 1, "")
    finally:
        await producer.close()

    assert [b"small"] == await read_values(connection, outputs)
