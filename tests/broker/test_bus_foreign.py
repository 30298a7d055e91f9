"""Clients in other languages speak to the service: librdkafka stands for them here."""

import asyncio
import json
from typing import Any

import msgpack
import pytest

from stream_infer.bus.batches import key_hash
from stream_infer.bus.codec import ResultEncoder, decode_request, encode_dead_letter
from stream_infer.bus.connection import Connection
from stream_infer.bus.offsets import CommittedOffsets
from stream_infer.bus.transactions import TransactionalProducer
from stream_infer.config import ServiceSettings, StreamSettings
from stream_infer.schemas import ClassifyBody, DeadLetter, ModelInfo, Partition, Record, Result, Task
from tests.broker.conftest import MakeTopic
from tests.broker.foreign import consume, produce
from tests.broker.probes import read_committed, read_values

INFO = ModelInfo("sentiment", "builtin:sentiment", "r1", "int8", "cpu", 256)


def settings(inputs: str, outputs: str, **rest: Any) -> StreamSettings:
    return StreamSettings(task=Task.CLASSIFY, input=inputs, output=outputs, model="sentiment", **rest)


async def test_foreign_requests_are_understood(connection: Connection, make_topic: MakeTopic) -> None:
    topic = await make_topic(partitions=4)
    messages: list[dict[str, Any]] = [
        {"key": b"a", "value": msgpack.packb({"text": "good"}), "headers": [("ce_id", b"1")]},
        {
            "key": b"b",
            "value": json.dumps({"text": "größer"}).encode(),
            "headers": {"content-type": "application/json"},
        },
        {"key": b"c", "value": b'{"text": "plain"}'},
    ]
    await asyncio.to_thread(produce, connection, topic, messages)

    found = {record.key: record for record in await read_committed(connection, topic)}

    bodies = {}
    for key, record in found.items():
        request = decode_request(
            record,
            "classify",
            settings(topic, "out"),
            ServiceSettings(),
            now=0.0,
            wall_ms=record.timestamp_ms,
        )
        bodies[key] = request.body
        assert ("1" if key == b"a" else record.position) == request.id
        assert key_hash(key or b"") % 4 == record.partition
    assert {b"a": ClassifyBody("good"), b"b": ClassifyBody("größer"), b"c": ClassifyBody("plain")} == bodies


@pytest.mark.parametrize("compression", ["gzip", "snappy", "lz4", "zstd"])
async def test_compressed_requests_are_read(
    compression: str, connection: Connection, make_topic: MakeTopic
) -> None:
    topic = await make_topic()
    values = [b'{"text": "the same words again and again"}'] * 100

    await asyncio.to_thread(
        produce,
        connection,
        topic,
        [{"value": value} for value in values],
        **{"compression.type": compression},
    )

    assert values == await read_values(connection, topic)


@pytest.mark.parametrize("form", ["msgpack", "json"])
async def test_foreign_readers_see_committed_results_only(
    form: str, connection: Connection, group: str, make_topic: MakeTopic
) -> None:
    inputs, outputs = await make_topic(), await make_topic()
    encoder = ResultEncoder(settings(inputs, outputs, response_format=form), INFO, "classify")
    source = Record(inputs, 0, 3, 1_000, b"key", b"value", (("traceparent", b"00-trace"),))
    result = Result(source, "id-1", "classify", {"label": "positive", "score": 0.5}, "sentiment", late=True)
    async with CommittedOffsets(connection, group) as offsets:
        producer = TransactionalProducer(connection, offsets, group=group, partition=Partition(inputs, 0))
        try:
            await producer.open()
            await producer.publish([encoder.encode(result)], 4, "")
        finally:
            await producer.close()

    (message,) = await asyncio.to_thread(consume, connection, group, [outputs], 1)

    unpack = json.loads if form == "json" else msgpack.unpackb
    assert {"id": "id-1", "label": "positive", "score": 0.5} == unpack(message.value())
    assert b"key" == message.key()
    headers = dict(message.headers())
    expected = {
        "ce_id": b"id-1",
        "ce_type": b"stream_infer.classify.result.v1",
        "content-type": f"application/{form}".encode(),
        "model": b"sentiment",
        "model_revision": b"r1",
        "precision": b"int8",
        "source_topic": inputs.encode(),
        "source_partition": b"0",
        "source_offset": b"3",
        "late": b"true",
        "traceparent": b"00-trace",
    }
    assert expected == {name: headers.get(name) for name in expected}


async def test_foreign_readers_see_why_a_record_failed(
    connection: Connection, group: str, make_topic: MakeTopic
) -> None:
    inputs, letters = await make_topic(), await make_topic()
    record = Record(inputs, 0, 0, 1_000, b"key", b"\xff\x00", (("own", b"header"), ("empty", None)))
    letter = DeadLetter(record, "id-1", "classify", "malformed", "the value is broken", "decode")
    async with CommittedOffsets(connection, group) as offsets:
        producer = TransactionalProducer(connection, offsets, group=group, partition=Partition(inputs, 0))
        try:
            await producer.open()
            await producer.publish([encode_dead_letter(letter, letters)], 1, "")
        finally:
            await producer.close()

    (message,) = await asyncio.to_thread(consume, connection, group, [letters], 1)

    assert (b"key", b"\xff\x00") == (message.key(), message.value())
    headers = dict(message.headers())
    assert (b"header", None) == (headers["own"], headers["empty"])
    assert b"malformed" == headers["dead_letter_reason"]
    assert b"the value is broken" == headers["dead_letter_error"]
    assert inputs.encode() == headers["dead_letter_topic"]
