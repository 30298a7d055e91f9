"""The wire of replays: an original as its producer wrote it, and the ledger of what was put back.

The ledger is a compacted topic beside the dead-letter topic. A group's committed metadata would
hold the same, but a broker forgets the offsets of a group without members after a week, long
before it forgets the dead letters.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from stream_infer.bus.batches import OutRecord
from stream_infer.bus.codec import DEAD_LETTER_PREFIX, TRACE_HEADERS
from stream_infer.bus.connection import Connection
from stream_infer.bus.topics import apply, check, load_specs
from stream_infer.bus.values import decode_value, encode_value
from stream_infer.errors import ConfigError, MalformedRecordError
from stream_infer.schemas import DeadLetter, Partition, Record

_DECLARED = "dead-letters.replayed"
_SUFFIX = ".replayed"


def ledger_of(topic: str) -> Partition:
    """Return the one partition of the ledger of a dead-letter topic.

    One, with one writer: a second writer's open transaction would hide from readers what the first
    has committed after it.
    """
    return Partition(topic + _SUFFIX, 0)


async def ensure_ledger(connection: Connection, topic: str) -> None:
    """Create the ledger of a dead-letter topic unless it exists.

    Raises:
        ConfigError: it exists but the broker would forget what is in it.
        BusError: the broker is out of reach or refuses.
    """
    declared = next(spec for spec in load_specs() if spec.name == _DECLARED)
    spec = declared.model_copy(update={"name": ledger_of(topic).topic})
    await apply(connection, [spec])
    for difference in await check(connection, [spec]):
        if difference.setting == "cleanup.policy":
            raise ConfigError(f"what was put back would be forgotten: {difference}")


def encode_original(letter: DeadLetter) -> OutRecord:
    """Return the record as its producer wrote it, for the partition it came from."""
    record = letter.record
    return OutRecord(record.topic, record.key, record.value, list(record.headers), record.partition)


def encode_source(letter: DeadLetter, source: Record) -> OutRecord:
    """Return the record that a redacted dead letter was made of, for the partition that it lies in.

    It goes on in the dead letter's trace, as an original does that the dead letter holds whole.
    """
    trace = tuple(header for header in letter.record.headers if header[0] in TRACE_HEADERS)
    replaced = {name for name, _ in trace}
    kept = tuple(
        header
        for header in source.headers
        if header[0] not in replaced and not header[0].startswith(DEAD_LETTER_PREFIX)
    )
    return encode_original(replace(letter, record=source._replace(headers=(*kept, *trace))))


def encode_entry(topic: str, partition: int, fields: Mapping[str, object]) -> OutRecord:
    """Return what the ledger is to say from now on of a partition of the dead-letter topic."""
    ledger = ledger_of(topic)
    value = encode_value(fields, "msgpack")
    return OutRecord(ledger.topic, b"%d" % partition, value, partition=ledger.partition)


def decode_entry(record: Record) -> tuple[int, dict[str, Any]]:
    """Return the partition that a record of the ledger is about, and what it says of it.

    Raises:
        MalformedRecordError: it is not from a ledger.
    """
    try:
        partition = int(record.key or b"")
    except ValueError:
        raise MalformedRecordError(f"{record.position}: its key is no partition") from None
    return partition, decode_value(record.value or b"", None)
