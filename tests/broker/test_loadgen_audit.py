"""The audit on topics that are written by hand: what is wrong with them is known."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

import msgpack
import pytest
from aiokafka import TopicPartition
from aiokafka.admin import RecordsToDelete

from loadgen.__main__ import main
from loadgen.auditor import audit
from loadgen.broker import Broker
from loadgen.verdict import Kind
from stream_infer.bus.batches import OutRecord
from stream_infer.bus.connection import Connection, open_admin
from stream_infer.bus.publisher import Publisher
from stream_infer.schemas import Partition, Record
from tests.broker.conftest import MakeTopic
from tests.broker.probes import read_committed
from tests.broker.test_bus_aborts import open_transaction

COUNT = 60


async def publish(connection: Connection, records: Sequence[OutRecord]) -> None:
    """Write records, one after the other."""
    async with Publisher(connection) as publisher:
        await publisher.publish(records)


def result(request: Record, topic: str) -> OutRecord:
    """Return a result of a request, as README describes it."""
    identity = f"{request.topic}/{request.partition}/{request.offset}"
    headers: list[tuple[str, bytes | None]] = [
        ("ce_id", identity.encode()),
        ("source_topic", request.topic.encode()),
        ("source_partition", b"%d" % request.partition),
        ("source_offset", b"%d" % request.offset),
    ]
    return OutRecord(topic, request.key, msgpack.packb({"id": identity}), headers)


@pytest.fixture
async def requests(connection: Connection, make_topic: MakeTopic) -> list[Record]:
    """Requests of six keys on a topic of two partitions."""
    topic = await make_topic(2)
    await publish(connection, [OutRecord(topic, b"key-%d" % (n % 6), b"%d" % n) for n in range(COUNT)])
    return await read_committed(connection, topic)


async def command(connection: Connection, requests: Sequence[Record], output: str, *more: str) -> int:
    """Return the exit code of the audit's command line."""
    servers = ("--bootstrap-servers", connection.bootstrap_servers)
    topics = ("--input", requests[0].topic, "--output", output)
    return await asyncio.to_thread(main, ["audit", *servers, *topics, *more])


async def test_the_command_tells_clean_from_lost(
    connection: Connection, make_topic: MakeTopic, requests: list[Record], tmp_path: Path
) -> None:
    output, report = await make_topic(2), tmp_path / "verdict.json"
    results = [result(each, output) for each in requests]
    await publish(connection, results[:-1])

    assert 1 == await command(connection, requests, output)

    await publish(connection, results[-1:])

    assert 0 == await command(connection, requests, output, "--json", str(report))
    assert '"verdict": "clean"' in report.read_text(encoding="utf-8")


async def test_drop_repeat_move_and_change_are_told(
    connection: Connection, make_topic: MakeTopic, requests: list[Record]
) -> None:
    output = await make_topic(2)
    results = [result(each, output) for each in requests]
    results.append(results[10])
    same_key = [place for place, each in enumerate(requests) if each.key == requests[20].key]
    before, after = same_key[:2]
    results[before], results[after] = results[after], results[before]
    changed = result(requests[41], output)
    results[41] = OutRecord(output, b"other key", changed.value, changed.headers)
    del results[30]
    await publish(connection, results)

    verdict = await audit(Broker(connection.bootstrap_servers), [requests[0].topic], [output])

    found = {
        kind: [(each.partition, each.offset) for each in verdict.offenders if each.kind is kind]
        for kind in verdict.counts
    }
    lost, repeated, moved, altered = (requests[place] for place in (30, 10, before, 41))
    assert {
        Kind.LOST: [(lost.partition, lost.offset)],
        Kind.DUPLICATED: [(repeated.partition, repeated.offset)],
        Kind.WRONG_KEY: [(altered.partition, altered.offset)],
        Kind.OUT_OF_ORDER: sorted(
            {(moved.partition, moved.offset), (repeated.partition, repeated.offset)},
        ),
    } == {kind: sorted(places) for kind, places in found.items()}


async def test_what_was_aborted_is_no_outcome_and_hides_none(
    connection: Connection, make_topic: MakeTopic, requests: list[Record], group: str
) -> None:
    """A transaction that is open leaves doubt; once it is aborted there is none."""
    output = await make_topic(2)
    producer = await open_transaction(connection, group, Partition(requests[0].topic, 0), output)
    verdict = await audit(Broker(connection.bootstrap_servers), [requests[0].topic], [output])

    assert 2 == verdict.exit_code
    assert any("open transaction" in doubt for doubt in verdict.doubts)

    await producer.abort_transaction()
    await producer.begin_transaction()
    for each in requests:
        record = result(each, output)
        await producer.send(output, record.value, record.key, headers=list(record.headers))
    await producer.commit_transaction()
    await producer.stop()

    assert (await audit(Broker(connection.bootstrap_servers), [requests[0].topic], [output])).is_clean


async def test_a_truncated_input_is_no_clean_one(
    connection: Connection, make_topic: MakeTopic, requests: list[Record]
) -> None:
    output = await make_topic(2)
    await publish(connection, [result(each, output) for each in requests])
    async with open_admin(connection) as admin:
        await admin.delete_records({TopicPartition(requests[0].topic, 0): RecordsToDelete(5)})

    assert 2 == await command(connection, requests, output)


async def test_what_cannot_be_read_cannot_be_told(
    connection: Connection, requests: list[Record], capsys: pytest.CaptureFixture[str]
) -> None:
    assert 2 == await command(connection, requests, "no-such-topic")
    assert "no such topic: no-such-topic" in capsys.readouterr().err

    absent = ["audit", "--bootstrap-servers", "127.0.0.1:1"]
    assert 2 == await asyncio.to_thread(main, absent)
    assert "no broker answers at 127.0.0.1:1" in capsys.readouterr().err
