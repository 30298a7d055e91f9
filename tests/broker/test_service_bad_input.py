"""Whatever stands on an input topic ends once: a result, or a dead letter with a reason."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import msgpack
import pytest
from aiokafka import AIOKafkaProducer

from stream_infer.bus.connection import Connection
from stream_infer.config import ServiceSettings
from stream_infer.service.dead_letters import to_entry
from tests.broker.conftest import MakeTopic
from tests.broker.lanes import Lane, watched
from tests.broker.probes import read_committed
from tests.broker.service_process import SCORING_STREAM, ServiceProcess

LIMITS = ServiceSettings()
GOOD = msgpack.packb({"text": "a good neighbour"})

BAD: list[tuple[bytes | None, list[tuple[str, bytes]], str]] = [
    (b"\xc1\xff\x00 not msgpack", [], "malformed"),
    (b'{"text": "cut off', [], "malformed"),
    (b'{"text": "caf\xe9"}', [], "malformed"),
    (msgpack.packb({"text": "\x00"}) + b"trailing", [], "malformed"),
    (msgpack.packb(["text"]), [], "malformed"),
    (b"\x81" * 2_000, [], "malformed"),
    (b'{"text": "\\ud800"}', [], "malformed"),
    (None, [], "malformed"),
    (b"", [], "malformed"),
    (msgpack.packb({"text": 7}), [], "invalid_field"),
    (msgpack.packb({"text": {"text": "nested"}}), [], "invalid_field"),
    (msgpack.packb({}), [], "empty_text"),
    (msgpack.packb({"text": " \u200b\n "}), [], "empty_text"),
    (msgpack.packb({"text": "x" * (LIMITS.max_text_chars + 1)}), [], "too_large"),
    (msgpack.packb({"text": "y" * LIMITS.max_record_bytes}), [], "too_large"),
    (GOOD, [("ce_type", b"stream_infer.translate.request.v1")], "unknown_task"),
    (GOOD, [("ce_id", b"\xff\xfe")], "invalid_field"),
    (GOOD, [("ce_id", b"i" * 5_000)], "invalid_field"),
]

ODD_BUT_GOOD: list[tuple[bytes, list[tuple[str, bytes]], int | None]] = [
    (GOOD, [("ce_id", b"twice")], None),
    (GOOD, [("ce_id", b"twice")], None),
    (GOOD, [], 1),
    (GOOD, [], int(time.time() * 1000) + 1_800_000),  # Kafka itself refuses more than an hour
    (GOOD, [(f"header-{number}", b"x" * 200) for number in range(100)], None),
    (GOOD, [("x\u00e9", b"\x00\xff"), ("", b"")], None),
    (msgpack.packb({"text": "long " * 9_000}), [], None),
    (b'{"text": "as JSON", "unknown": [1, {"deep": null}]}', [], None),
]


@pytest.fixture
async def lane(connection: Connection, make_topic: MakeTopic, group: str) -> Lane:
    """A stream whose input and output have one partition, so that neighbours share batches."""
    names = {
        name: await make_topic(max_message_bytes=2_097_152) for name in ("input", "output", "dead_letters")
    }
    settings = SCORING_STREAM.format(group=group, bootstrap_servers=connection.bootstrap_servers, **names)
    return Lane(connection, **names, settings=settings)


async def test_each_record_ends_once_and_says_why(lane: Lane, tmp_path: Path) -> None:
    async with watched(lane) as outcomes, ServiceProcess(lane.settings, tmp_path):
        await _write_all(lane)
        await outcomes.reach(len(BAD) + len(ODD_BUT_GOOD))

    assert (await lane.audit()).is_clean
    assert len(ODD_BUT_GOOD) == len(await read_committed(lane.connection, lane.output))
    letters = await read_committed(lane.connection, lane.dead_letters)
    found = sorted((_offset(letter), _header(letter, "reason"), letter.value) for letter in letters)
    # Bad and good records alternate as long as there are both, so a bad one's offset tells which it is.
    expected = sorted(
        (min(2 * place, place + len(ODD_BUT_GOOD)), reason, value)
        for place, (value, _, reason) in enumerate(BAD)
    )
    assert expected == found
    assert all(_header(letter, "error") for letter in letters)


async def test_with_privacy_no_text_is_in_dead_letters_or_logs(lane: Lane, tmp_path: Path) -> None:
    marker = b"zebra-in-the-attic"
    values = [
        b'{"text": "' + marker,
        msgpack.packb({"text": [marker]}),
        msgpack.packb({"text": f"{marker.decode()} die"}),
        msgpack.packb({"text": marker.decode()}),
        marker,
    ]
    settings = f"{lane.settings}\n[privacy]\nredact = true\n"
    async with watched(lane) as outcomes, ServiceProcess(settings, tmp_path) as worker:
        async with AIOKafkaProducer(bootstrap_servers=lane.connection.bootstrap_servers) as producer:
            for value in values:
                await producer.send_and_wait(lane.input, value, b"key", headers=[("note", marker)])
        await outcomes.reach(len(values))

    letters = await read_committed(lane.connection, lane.dead_letters)
    assert len(letters) >= 3
    assert not any(marker in repr((letter.key, letter.value, letter.headers)).encode() for letter in letters)
    sources = {record.position: record for record in await read_committed(lane.connection, lane.input)}
    for entry in map(to_entry, letters):
        assert entry.letter is not None
        assert entry.stems_from(sources[entry.letter.record.position])
    assert marker not in worker.log_path.read_bytes()


async def _write_all(lane: Lane) -> None:
    producer = AIOKafkaProducer(
        bootstrap_servers=lane.connection.bootstrap_servers,
        max_request_size=2_097_152,
        enable_idempotence=True,
    )
    async with producer:
        bad = [(value, headers, None) for value, headers, _ in BAD]
        for number in range(max(len(bad), len(ODD_BUT_GOOD))):
            for records in (bad, ODD_BUT_GOOD):
                if number < len(records):
                    value, headers, timestamp_ms = records[number]
                    await producer.send_and_wait(
                        lane.input, value, b"key", headers=headers, timestamp_ms=timestamp_ms
                    )


def _header(letter: Any, name: str) -> str:
    return (dict(letter.headers)[f"dead_letter_{name}"] or b"").decode()


def _offset(letter: Any) -> int:
    return int(_header(letter, "offset"))
