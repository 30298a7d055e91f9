"""The input side: what the group gives flows when told to, and nothing is skipped on the way."""

import asyncio
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import replace
from time import monotonic

import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.admin import NewPartitions

from loadgen.kafka.brokers import Broker
from stream_infer.bus.batches import OutRecord, key_hash
from stream_infer.bus.connection import Connection, open_admin
from stream_infer.bus.offsets import Committed, CommittedOffsets
from stream_infer.bus.publisher import Publisher
from stream_infer.bus.source import Source
from stream_infer.errors import BusError, ConfigError, PartitionLostError
from stream_infer.schemas import Partition, Record
from tests.broker.conftest import MakeTopic
from tests.broker.probes import PATIENCE, Owner, write, write_name


@pytest.fixture
def make_source(connection: Connection, group: str) -> Callable[..., Source]:
    """Makes members of this test's group."""

    def make(owner: Owner, *topics: str) -> Source:
        return Source(
            connection,
            group=group,
            topics=topics,
            on_assigned=owner.on_assigned,
            on_revoked=owner.on_revoked,
            on_rewound=owner.on_rewound,
        )

    return make


async def fetch(source: Source, count: int) -> list[Record]:
    """Return `count` records, in the order they came."""
    found: list[Record] = []
    async with asyncio.timeout(PATIENCE):
        while len(found) < count:
            for records in (await source.fetch(0.1)).values():
                found.extend(records)
    return found


async def fetch_nothing(source: Source) -> None:
    """Fail if anything comes within a few fetches."""
    for _ in range(3):
        assert {} == await source.fetch(0.1)


async def test_nothing_flows_before_it_is_begun(
    connection: Connection, make_topic: MakeTopic, make_source: Callable[..., Source]
) -> None:
    """Records read before the previous owner is fenced would be processed twice."""
    topic, owner = await make_topic(), Owner()
    await write(connection, topic, [b"a", b"b"])
    async with make_source(owner, topic) as source:
        await owner.wait_for(1)
        await fetch_nothing(source)

        await source.begin(Partition(topic, 0), None)

        assert [b"a", b"b"] == [record.value for record in await fetch(source, 2)]


async def test_a_partition_that_is_not_begun_holds_up_no_other(
    connection: Connection, make_topic: MakeTopic, make_source: Callable[..., Source]
) -> None:
    """Its owner may wait for long until the one before it is fenced; nothing of it was ever committed."""
    topic, owner = await make_topic(2), Owner()
    async with make_source(owner, topic) as source, Publisher(connection) as publisher:
        await owner.wait_for(2)
        await source.begin(Partition(topic, 0), None)
        for value in (b"a", b"b", b"c"):
            await publisher.publish([OutRecord(topic, None, value, partition=0)])
            async with asyncio.timeout(3.0):
                assert [value] == [record.value for record in await fetch(source, 1)]

        started = monotonic()
        await fetch_nothing(source)
        assert monotonic() - started > 0.2


async def test_a_partition_flows_from_its_position(
    connection: Connection, make_topic: MakeTopic, make_source: Callable[..., Source]
) -> None:
    topic, owner = await make_topic(), Owner()
    await write(connection, topic, [b"0", b"1", b"2"], key=b"k")
    async with make_source(owner, topic) as source:
        await owner.wait_for(1)
        await source.begin(Partition(topic, 0), 1)

        first, second = await fetch(source, 2)

        assert (topic, 0, 1, b"k", b"1") == (
            first.topic,
            first.partition,
            first.offset,
            first.key,
            first.value,
        )
        assert 2 == second.offset
        assert first.timestamp_ms > 0


async def test_records_come_while_waiting(
    connection: Connection, make_topic: MakeTopic, make_source: Callable[..., Source]
) -> None:
    topic, owner = await make_topic(), Owner()
    async with make_source(owner, topic) as source:
        await owner.wait_for(1)
        await source.begin(Partition(topic, 0), None)
        fetching = asyncio.create_task(fetch(source, 1))
        await write(connection, topic, [b"late"])

        assert [b"late"] == [record.value for record in await fetching]


async def test_a_partition_that_is_added_is_given_out(
    connection: Connection,
    make_topic: MakeTopic,
    make_source: Callable[..., Source],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """And what was written to it before anyone knew of it flows."""
    monkeypatch.setattr("stream_infer.bus.source.METADATA_AGE_MS", 500)
    topic, owner = await make_topic(), Owner()
    async with make_source(owner, topic) as source:
        await owner.wait_for(1)
        async with open_admin(connection) as admin:
            await admin.create_partitions({topic: NewPartitions(2)})
        async with AIOKafkaProducer(**connection.arguments) as producer:
            await producer.send_and_wait(topic, b"early", partition=1)
        await owner_after_fetches(source, owner, 2)
        for number in (0, 1):
            await source.begin(Partition(topic, number), None)

        assert [b"early"] == [record.value for record in await fetch(source, 1)]


async def owner_after_fetches(source: Source, owner: Owner, count: int) -> None:
    """Return once `count` partitions are assigned: a worker polls while the group rebalances."""
    async with asyncio.timeout(PATIENCE):
        while len(owner.assigned) != count:
            await source.fetch(0.1)


async def test_a_doubted_group_deals_its_partitions_out_anew(
    make_topic: MakeTopic, make_source: Callable[..., Source]
) -> None:
    topic, owner = await make_topic(), Owner()
    async with make_source(owner, topic) as source:
        await owner.wait_for(1)
        assert 1 == source.rebalances

        source.rejoin()

        async with asyncio.timeout(PATIENCE):
            while source.rebalances < 2 or not source.assigned:
                await source.fetch(0.1)
        assert {Partition(topic, 0)} == source.assigned


async def test_a_limited_fetch_leaves_the_rest_for_the_next(
    connection: Connection, make_topic: MakeTopic, make_source: Callable[..., Source]
) -> None:
    topic, owner = await make_topic(), Owner()
    await write(connection, topic, [b"%d" % index for index in range(10)])
    async with make_source(owner, topic) as source:
        await owner.wait_for(1)
        await source.begin(Partition(topic, 0), None)
        offsets: list[int] = []
        async with asyncio.timeout(PATIENCE):
            while len(offsets) < 10:
                for records in (await source.fetch(0.1, max_records=3)).values():
                    assert len(records) <= 3
                    offsets += [record.offset for record in records]

        assert list(range(10)) == offsets


async def test_a_paused_partition_waits_and_loses_nothing(
    connection: Connection, make_topic: MakeTopic, make_source: Callable[..., Source]
) -> None:
    topic, owner = await make_topic(partitions=2), Owner()
    keys = {key_hash(key) % 2: key for key in (b"%d" % number for number in range(10))}
    async with make_source(owner, topic) as source:
        await owner.wait_for(2)
        await source.begin(Partition(topic, 0), None)
        await source.begin(Partition(topic, 1), None)
        source.pause([Partition(topic, 0)])
        await write(connection, topic, [b"a", b"b"], key=keys[0])
        await write(connection, topic, [b"c"], key=keys[1])
        assert [b"c"] == [record.value for record in await fetch(source, 1)]
        await fetch_nothing(source)

        source.resume([Partition(topic, 0)])

        assert [b"a", b"b"] == [record.value for record in await fetch(source, 2)]


async def test_committed_positions_keep_their_metadata(
    connection: Connection, group: str, make_topic: MakeTopic, make_source: Callable[..., Source]
) -> None:
    topic, owner = await make_topic(partitions=2), Owner()
    first, second = Partition(topic, 0), Partition(topic, 1)
    async with make_source(owner, topic) as source, CommittedOffsets(connection, group) as offsets:
        await owner.wait_for(2)
        await source.commit(first, 12, "1-3,7")

        assert {first: Committed(12, "1-3,7"), second: Committed()} == await offsets.read([first, second])


async def test_a_foreign_partition_cannot_be_begun_or_committed(
    make_topic: MakeTopic, make_source: Callable[..., Source]
) -> None:
    topic, owner = await make_topic(), Owner()
    async with make_source(owner, topic) as source:
        await owner.wait_for(1)
        with pytest.raises(PartitionLostError):
            await source.begin(Partition(topic, 1), 0)
        with pytest.raises(PartitionLostError):
            await source.commit(Partition("other", 0), 1, "")


async def test_two_members_share_the_partitions(
    make_topic: MakeTopic, make_source: Callable[..., Source]
) -> None:
    """The first gives everything up, with its callback awaited, before anyone is given anything."""
    topic, first, second = await make_topic(partitions=4), Owner(), Owner()
    async with make_source(first, topic) as source:
        await first.wait_for(4)
        async with make_source(second, topic) as other:
            await second.wait_for(2)
            await first.wait_for(2)

            assert not first.assigned & second.assigned
            assert [("assigned", 4), ("revoked", 4), ("assigned", 2)] == [(w, len(p)) for w, p in first.calls]
            assert source.assigned == first.assigned
            assert other.assigned == second.assigned

        await first.wait_for(4)


async def test_a_new_member_waits_for_the_drain(
    make_topic: MakeTopic, make_source: Callable[..., Source]
) -> None:
    topic, first, second = await make_topic(partitions=2), Owner(), Owner()
    draining, drained = asyncio.Event(), asyncio.Event()

    async def drain(partitions: frozenset[Partition]) -> None:
        draining.set()
        await drained.wait()
        await Owner.on_revoked(first, partitions)

    first.on_revoked = drain  # type: ignore[method-assign] # this owner takes its time
    async with make_source(first, topic):
        await first.wait_for(2)
        async with asyncio.timeout(PATIENCE), asyncio.TaskGroup() as tasks:
            joining = tasks.create_task(make_source(second, topic).__aenter__())
            await draining.wait()
            assert not second.assigned
            drained.set()
            await second.wait_for(1)
        await joining.result().__aexit__(None, None, None)


@pytest.mark.parametrize("joins_first", [False, True])
async def test_a_named_member_comes_back_to_its_partitions(
    connection: Connection, group: str, make_topic: MakeTopic, *, joins_first: bool
) -> None:
    """With static membership a quick restart moves nothing to other members.

    Who joined first deals the partitions out when it is back, to what it then takes for the order of members.
    """
    topic, before, after, other = await make_topic(partitions=3), Owner(), Owner(), Owner()

    def member(name: str, owner: Owner) -> Source:
        named = replace(connection, settings=connection.settings.model_copy(update={"instance_id": name}))
        return Source(
            named,
            group=group,
            topics=[topic],
            on_assigned=owner.on_assigned,
            on_revoked=owner.on_revoked,
            on_rewound=owner.on_rewound,
        )

    restarting, staying = member("restarting", before), member("other", other)
    async with AsyncExitStack() as stack:
        if joins_first:
            await restarting.__aenter__()
            await before.wait_for(3)
        await stack.enter_async_context(staying)
        if not joins_first:
            await other.wait_for(3)
            await restarting.__aenter__()
        await before.wait_for_some(3)
        await other.wait_for_some(3)
        calls = len(other.calls)
        await restarting.__aexit__(None, None, None)
        async with member("restarting", after):
            await after.wait_for_some(3)

            assert before.assigned == after.assigned
            assert calls == len(other.calls)


async def test_the_error_of_a_callback_is_raised_by_the_next_fetch(
    make_topic: MakeTopic, make_source: Callable[..., Source]
) -> None:
    topic, owner = await make_topic(), Owner()

    async def fail(partitions: frozenset[Partition]) -> None:
        await Owner.on_assigned(owner, partitions)
        raise RuntimeError("no producer")

    owner.on_assigned = fail  # type: ignore[method-assign] # this owner fails
    async with make_source(owner, topic) as source:
        await owner.wait_for(1)
        with pytest.raises(BusError, match="no producer"):
            await source.fetch(0.1)


async def test_a_position_beyond_the_end_is_told_to_the_owner(
    connection: Connection, make_topic: MakeTopic, make_source: Callable[..., Source]
) -> None:
    """As after a broker forgot its last records: nothing flows until the owner begins again."""
    topic, owner = await make_topic(), Owner()
    partition = Partition(topic, 0)
    await write(connection, topic, [b"0", b"1"])
    async with make_source(owner, topic) as source:
        await owner.wait_for(1)
        await source.begin(partition, 100)
        async with asyncio.timeout(PATIENCE):
            while not owner.rewound:
                assert {} == await source.fetch(0.1)
        await write(connection, topic, [b"2"])
        await fetch_nothing(source)
        assert [(partition, 2)] == owner.rewound
        await source.begin(partition, 2)

        assert [b"2"] == [record.value for record in await fetch(source, 1)]


async def test_nothing_begins_to_flow_while_partitions_are_given_up(
    connection: Connection, make_topic: MakeTopic, make_source: Callable[..., Source]
) -> None:
    topic, owner = await make_topic(), Owner()
    partition = Partition(topic, 0)
    refused: list[str] = []

    async def open_late(partitions: frozenset[Partition]) -> None:
        try:
            await source.begin(partition, 0)
        except PartitionLostError as error:
            refused.append(str(error))
        await Owner.on_revoked(owner, partitions)

    owner.on_revoked = open_late  # type: ignore[method-assign] # this owner takes its time to open
    await write(connection, topic, [b"0"])
    source = make_source(owner, topic)
    async with source:
        await owner.wait_for(1)
        await source._assignment.on_partitions_revoked(list(source._assignment.partitions))

        assert 1 == len(refused)
        assert {} == source.lag()


async def test_a_header_name_that_is_not_text_stops_nothing(
    connection: Connection, make_topic: MakeTopic, make_source: Callable[..., Source]
) -> None:
    topic, owner = await make_topic(), Owner()
    await write_name(connection, topic, b"\xff\xfe")
    await write(connection, topic, [b"after"])
    async with make_source(owner, topic) as source:
        await owner.wait_for(1)
        await source.begin(Partition(topic, 0), None)

        poison, after = await fetch(source, 2)

    assert ((("\ufffd\ufffd", b"h"),), b"poison") == (poison.headers, poison.value)
    assert b"after" == after.value


async def test_lag_and_last_word_from_the_broker_are_known(
    connection: Connection, make_topic: MakeTopic, make_source: Callable[..., Source]
) -> None:
    topic, owner = await make_topic(), Owner()
    partition = Partition(topic, 0)
    await write(connection, topic, [b"0", b"1", b"2"])
    async with make_source(owner, topic) as source:
        await owner.wait_for(1)
        assert source.heard_ms() is None
        await source.begin(partition, None)
        async with asyncio.timeout(PATIENCE):
            while not await source.fetch(0.1, max_records=1):
                pass

        assert {partition: 2} == source.lag()
        assert source.heard_ms() is not None
        await fetch(source, 2)
        assert {partition: 0} == source.lag()


async def test_the_flow_goes_on_after_a_restart_of_the_broker(
    broker: Broker, connection: Connection, make_topic: MakeTopic, make_source: Callable[..., Source]
) -> None:
    """Whether or not the group is rebalanced by it, no record is skipped."""
    topic, owner = await make_topic(), Owner()
    partition = Partition(topic, 0)
    await write(connection, topic, [b"0"])
    async with make_source(owner, topic) as source:
        await owner.wait_for(1)
        await source.begin(partition, None)
        await fetch(source, 1)
        await broker.stop()
        await source.fetch(0.1)
        await broker.start()
        await write(connection, topic, [b"1"])
        found: list[Record] = []
        assignments = len(owner.calls)
        async with asyncio.timeout(PATIENCE):
            while not found:
                if len(owner.calls) > assignments and owner.assigned:
                    assignments = len(owner.calls)
                    await source.begin(partition, 1)
                found += [record for records in (await source.fetch(0.1)).values() for record in records]

        assert [b"1"] == [record.value for record in found]


async def test_leaving_works_while_the_broker_is_gone(
    broker: Broker, make_topic: MakeTopic, make_source: Callable[..., Source]
) -> None:
    topic, owner = await make_topic(), Owner()
    try:
        async with asyncio.timeout(PATIENCE), make_source(owner, topic):
            await owner.wait_for(1)
            await broker.stop()
    finally:
        await broker.start()


async def test_a_missing_topic_is_named(make_source: Callable[..., Source]) -> None:
    with pytest.raises(ConfigError, match="no-such-topic"):
        await make_source(Owner(), "no-such-topic").__aenter__()
