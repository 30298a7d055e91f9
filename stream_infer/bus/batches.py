"""Which output partition each record goes to, decided the way Kafka's own clients decide it."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

_MULTIPLIER = 0x5BD1E995
_SEED = 0x9747B28C
_WORD = 0xFFFFFFFF
_POSITIVE = 0x7FFFFFFF
_MAX_REMEMBERED_BYTES = 256


@dataclass(frozen=True, slots=True)
class OutRecord:
    """One record to be written; a None value deletes the key of a compacted topic.

    `partition` is where it goes if not where its key belongs.
    """

    topic: str
    key: bytes | None
    value: bytes | None
    headers: list[tuple[str, bytes | None]] = field(default_factory=list)
    partition: int | None = None


Target = tuple[str, int]
"""An output topic and one of its partitions."""


def group_by_target(
    records: Sequence[OutRecord], partition_counts: Mapping[str, int], keyless: int
) -> dict[Target, list[int]]:
    """Return the records' indexes by the partition they go to, in their order.

    A record that names its partition goes there, wrapped around where the topic has fewer. A key
    always goes to the same partition (murmur2, as every Kafka client does by default); records
    without a key go to partition `keyless` modulo the topic's count, all together, so that they
    keep their order too.
    """
    targets: dict[Target, list[int]] = {}
    for index, record in enumerate(records):
        number = record.partition
        if number is None:
            number = keyless if record.key is None else _hash(record.key)
        target = (record.topic, number % partition_counts[record.topic])
        targets.setdefault(target, []).append(index)
    return targets


def _hash(key: bytes) -> int:
    """Return the key's hash; keys repeat, so it is remembered, unless the key would take much memory."""
    return _remembered_hash(key) if len(key) <= _MAX_REMEMBERED_BYTES else key_hash(key)


def key_hash(key: bytes) -> int:
    """Return the positive murmur2 hash of a key, as in `org.apache.kafka.common.utils.Utils`.

    It costs some 100 ns a byte in Python.
    """
    whole = len(key) & ~3
    state = _SEED ^ len(key)
    for (word,) in struct.iter_unpack("<I", key[:whole]):
        mixed = word * _MULTIPLIER & _WORD
        mixed ^= mixed >> 24
        state = (state * _MULTIPLIER & _WORD) ^ (mixed * _MULTIPLIER & _WORD)
    if whole < len(key):
        state = (state ^ int.from_bytes(key[whole:], "little")) * _MULTIPLIER & _WORD
    state ^= state >> 13
    state = state * _MULTIPLIER & _WORD
    return (state ^ state >> 15) & _POSITIVE


_remembered_hash = lru_cache(maxsize=16_384)(key_hash)
