"""Values of records, msgpack or JSON, and where records go by their keys."""

from __future__ import annotations

import json
import math
from typing import Any

import msgpack
from aiokafka.partitioner import murmur2

from stream_infer.bus.batches import OutRecord, group_by_target, key_hash
from stream_infer.bus.values import decode_value, encode_value
from stream_infer.errors import MalformedRecordError
from tests.fuzz.feed import Feed
from tests.fuzz.target import Target, attempt

_POSITIVE = 0x7FFFFFFF
_CONTENT_TYPES = (None, b"application/msgpack", b"application/json")
_FIELDS = {"text": "Olá", "n": -1, "list": [1.5, None, True], "map": {"bytes": b"\xff"}}


def check_value(data: bytes) -> None:
    """Whatever is read is a map with text for keys, and is written as it was read."""
    feed = Feed(data)
    content_type, value = feed.choice(_CONTENT_TYPES), feed.rest()
    fields = attempt(MalformedRecordError, decode_value, value, content_type)
    if fields is None:
        return
    assert all(isinstance(name, str | bytes) for name in fields)
    if content_type != b"application/json" and value[0] not in b"{ \t\r\n":
        written = encode_value(fields, "msgpack")
        # Compared as bytes: a number that is not one is unequal to itself.
        assert written == encode_value(decode_value(written, None), "msgpack")
    elif _is_finite(fields) and _has_no_surrogates(fields):
        assert fields == decode_value(encode_value(fields, "json"), b"application/json")


def check_partition(data: bytes) -> None:
    """Keys go where Kafka's own clients put them, and every record goes to one partition."""
    feed = Feed(data)
    counts = {"a": 1 + feed.below(12), "b": 1 + feed.below(200)}
    keyless, records = feed.below(256), []
    for _ in range(feed.below(8)):
        partition = feed.below(256) if feed.below(4) == 0 else None
        records.append(OutRecord(feed.choice("ab"), feed.optional(), None, partition=partition))
    targets = group_by_target(records, counts, keyless)
    assert list(range(len(records))) == sorted(index for indexes in targets.values() for index in indexes)
    for (topic, number), indexes in targets.items():
        assert 0 <= number < counts[topic]
        assert indexes == sorted(indexes)
        assert all(topic == records[index].topic for index in indexes)
    key = feed.rest()
    assert murmur2(key) & _POSITIVE == key_hash(key)


def _is_finite(value: Any) -> bool:
    if isinstance(value, dict | list):
        return all(map(_is_finite, value.values() if isinstance(value, dict) else value))
    return not isinstance(value, float) or math.isfinite(value)


def _has_no_surrogates(value: Any) -> bool:
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True


TARGETS = (
    Target(
        "values",
        check_value,
        (
            b"\1" + msgpack.packb(_FIELDS),
            b"\2" + b'{"text": "Ol\\u00e1", "n": [1, 2.5e3, null, true, {"a": ""}]}',
            b"\0 {}",
        ),
    ),
    Target("partitions", check_partition, (b"\3\7\5\4\0\1\0\1\3key\1\0\1\1\2abthe rest",)),
)
