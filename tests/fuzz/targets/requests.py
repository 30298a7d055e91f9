"""Requests: records of input topics, and the dead letters of those that are none."""

from __future__ import annotations

import json

from stream_infer.bus.batches import OutRecord
from stream_infer.bus.client_codec import decode_dead_letter, encode_request
from stream_infer.bus.codec import (
    DEAD_LETTER_PREFIX,
    MAX_ID_CHARS,
    decode_request,
    encode_bare_dead_letter,
    encode_dead_letter,
    record_id,
)
from stream_infer.bus.values import Format
from stream_infer.config import BUILTIN_STREAMS, ServiceSettings
from stream_infer.errors import RecordError
from stream_infer.flow.outcomes import dead_letter
from stream_infer.schemas import AnswerBody, Body, ClassifyBody, Record, Request, TranslateBody
from stream_infer.text import prepare_layout, prepare_text
from tests.fuzz.feed import Feed
from tests.fuzz.target import Target, attempt

NOW, WALL_MS = 1_000.0, 1_764_000_000_000
_LIMITS = ServiceSettings(max_record_bytes=300, max_text_chars=100)
_TASKS = tuple(BUILTIN_STREAMS)


def check_request(data: bytes) -> None:
    """A record is a request that can be written and read again, or is refused with a reason."""
    feed = Feed(data)
    name, record = feed.choice(_TASKS), feed.record()
    assert 0 < len(record_id(record)) <= MAX_ID_CHARS
    request = attempt(RecordError, _decode, record, name)
    if request is None:
        return
    assert request.id == record_id(record)
    assert request.deadline <= NOW + BUILTIN_STREAMS[name].latency_budget_ms / 1000
    if _is_prepared(request.body):
        form: Format = "json" if len(data) % 2 else "msgpack"
        written = encode_request(request.body, record.topic, request.id, key=record.key, form=form)
        again = _decode(_written(written, record), name)
        assert (request.body, request.id) == (again.body, again.id)


def check_dead_letter(data: bytes) -> None:
    """Whatever a record holds, its dead letter keeps it whole and tells where it lies."""
    record = Feed(data).record()
    error = RuntimeError(data.decode("utf-8", "surrogateescape"))
    letter = dead_letter(record, "classify", error, "decode", request_id=record_id(record), attempts=3)
    read = decode_dead_letter(_written(encode_dead_letter(letter, "dead-letters"), record))
    kept = tuple(header for header in record.headers if not header[0].startswith(DEAD_LETTER_PREFIX))
    assert record._replace(headers=kept) == read.record
    assert (letter.id, letter.reason, letter.error, 3) == (read.id, read.reason, read.error, read.attempts)
    bare = _written(encode_bare_dead_letter(letter, "dead-letters"), record)
    assert bare.value is None
    assert record.position == decode_dead_letter(bare).record.position


def _decode(record: Record, name: str) -> Request:
    return decode_request(record, name, BUILTIN_STREAMS[name], _LIMITS, now=NOW, wall_ms=WALL_MS)


def _written(out: OutRecord, record: Record) -> Record:
    return Record(out.topic, 0, 7, record.timestamp_ms, out.key, out.value, tuple(out.headers))


def _is_prepared(body: Body) -> bool:
    """Whether preparing the text once more would leave it: what was an entity may be one again."""
    match body:
        case ClassifyBody(text):
            return prepare_text(text) == text
        case TranslateBody(text):
            return prepare_layout(text) == text
        case AnswerBody(question):
            return prepare_text(question) == question


def _seed(task: int, headers: bytes, fields: dict[str, object]) -> bytes:
    """Return the bytes that `Feed.record` makes such a record of."""
    return bytes([task, 0]) + bytes(16) + b"\1\3key" + headers + b"\1" + json.dumps(fields).encode()


_ID = b"\1\0\1\6order7"
TARGETS = (
    Target(
        "requests",
        check_request,
        (
            _seed(0, _ID, {"text": "The parcel &amp; all came early."}),
            _seed(1, b"\0", {"text": "Save your\nwork.", "source": "en", "target": "pt-BR"}),
            _seed(2, _ID, {"question": "Who?", "context": "He did.", "collection": "c", "top_k": 3}),
            _seed(0, b"\1\1\1\x20stream_infer.classify.request.v1", {"text": "a"}),
        ),
    ),
    Target("dead_letters", check_dead_letter, (_seed(0, _ID, {"text": "a"})[1:],)),
)
