"""Records to requests, outcomes to records; pure, and on the way of every event."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256
from typing import Any

from stream_infer.bus.batches import OutRecord
from stream_infer.bus.values import CONTENT_TYPES, decode_value, encode_value, kind_of
from stream_infer.config import ServiceSettings, StreamSettings
from stream_infer.errors import (
    INTERNAL,
    EmptyTextError,
    InvalidFieldError,
    LateError,
    MalformedRecordError,
    ReplicaDiedError,
    ReplicaTimeoutError,
    ResultTooLargeError,
    TooLargeError,
    UnknownTaskError,
)
from stream_infer.schemas import (
    MAX_TOP_K,
    AnswerBody,
    Body,
    ClassifyBody,
    DeadLetter,
    ModelInfo,
    Record,
    Request,
    Result,
    Task,
    TranslateBody,
)
from stream_infer.text import as_given, prepare_layout, prepare_text

MAX_ID_CHARS = 256
MAX_ERROR_CHARS = 1_000
MAX_BARE_KEY_BYTES = 1_024
TRACE_HEADERS = ("traceparent", "tracestate")
DEAD_LETTER_PREFIX = "dead_letter_"
REDACTED = "redacted"
"""What stands for a message that may quote a record or a model."""

Header = tuple[str, bytes | None]
LetterEncoder = Callable[[DeadLetter, str], OutRecord]
"""Makes a dead letter the record that goes to a topic."""

_TYPE_PREFIX = "stream_infer."
_LANGUAGE = re.compile(r"[A-Za-z]{2,3}(?:[-_][A-Za-z0-9]{2,8}){0,3}")
_TIMING = b"bus;dur=%.3f, queue;dur=%.3f, batch;dur=%.3f, engine;dur=%.3f, total;dur=%.3f"
_TRACEPARENT = re.compile(rb"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")
_PLAIN_REASONS = frozenset(
    error.reason
    for error in (
        EmptyTextError,
        InvalidFieldError,
        LateError,
        MalformedRecordError,
        ReplicaDiedError,
        ReplicaTimeoutError,
        ResultTooLargeError,
        TooLargeError,
        UnknownTaskError,
    )
)
"""Their messages name fields, sizes and limits, and quote nothing."""
_KNOWN_HEADERS = frozenset({"ce_id", "ce_type", "content-type"})


def decode_request(
    record: Record, name: str, stream: StreamSettings, limits: ServiceSettings, *, now: float, wall_ms: int
) -> Request:
    """Return the request that a record of stream `name` asks, its texts prepared.

    `now` is the monotonic arrival and `wall_ms` the same moment on the wall clock. The deadline
    counts from the producer's timestamp; one that is missing or in the future counts as arrival.
    Messages of errors name the field, never its content.

    Raises:
        RecordError: the record is not such a request.
    """
    headers = _known_headers(record)
    _check_type(headers.get("ce_type"), stream.task)
    if record.value is None:
        raise MalformedRecordError("the record has no value")
    if len(record.value) > limits.max_record_bytes:
        raise TooLargeError(
            f"the value has {len(record.value)} bytes, the limit is {limits.max_record_bytes}"
        )
    fields = decode_value(record.value, headers.get("content-type"))
    body = _BODIES[stream.task](fields, limits.max_text_chars)
    identity = _checked_id(headers["ce_id"]) if "ce_id" in headers else record.position
    return Request(identity, name, body, record, now, deadline_of(record, stream, now=now, wall_ms=wall_ms))


def deadline_of(record: Record, stream: StreamSettings, *, now: float, wall_ms: int) -> float:
    """Return the monotonic second until which the record's result is in time."""
    age_ms = wall_ms - record.timestamp_ms if 0 <= record.timestamp_ms < wall_ms else 0
    return now + (stream.latency_budget_ms - age_ms) / 1000


def record_id(record: Record) -> str:
    """Return the id that a dead letter of an undecodable record goes by; it raises nothing."""
    identity = _known_headers(record).get("ce_id")
    try:
        return record.position if identity is None else _checked_id(identity)
    except InvalidFieldError:
        return record.position


class ResultEncoder:
    """Turns the results of one stream into records; what all have in common is made once."""

    def __init__(
        self, stream: StreamSettings, info: ModelInfo, name: str, reader: ModelInfo | None = None
    ) -> None:
        self._topic = stream.output
        self._format = stream.response_format
        self._commons: dict[tuple[str, int], list[Header]] = {}
        self._common: list[Header] = [
            ("content-type", CONTENT_TYPES[stream.response_format]),
            ("ce_specversion", b"1.0"),
            ("ce_type", f"{_TYPE_PREFIX}{stream.task}.result.v1".encode()),
            ("ce_source", f"/stream_infer/{name}".encode()),
            ("model", info.name.encode()),
            ("model_revision", info.revision.encode()),
            ("precision", info.precision.encode()),
        ]
        if reader is not None:
            self._common += [
                ("reader", reader.name.encode()),
                ("reader_revision", reader.revision.encode()),
                ("reader_precision", reader.precision.encode()),
            ]

    def encode(self, result: Result) -> OutRecord:
        """Return the result as a record of the stream's output topic.

        `server-timing` holds the stage times, in milliseconds, in the syntax of the HTTP header.
        """
        record, stages = result.record, result.stages
        headers = [
            *self._common_of(record.topic, record.partition),
            ("ce_id", result.id.encode()),
            ("source_offset", b"%d" % record.offset),
            (
                "server-timing",
                _TIMING
                % (
                    stages.bus * 1e3,
                    stages.queue * 1e3,
                    stages.batch * 1e3,
                    stages.engine * 1e3,
                    stages.total * 1e3,
                ),
            ),
        ]
        if result.late:
            headers.append(("late", b"true"))
        if record.headers:
            headers.extend(header for header in record.headers if header[0] in TRACE_HEADERS)
        value = encode_value({"id": result.id, **result.body}, self._format)
        return OutRecord(self._topic, record.key, value, headers)

    def _common_of(self, topic: str, partition: int) -> list[Header]:
        """Return the headers that all results of an input partition have in common."""
        found = self._commons.get((topic, partition))
        if found is None:
            origin: list[Header] = [("source_topic", topic.encode()), ("source_partition", b"%d" % partition)]
            found = self._commons[topic, partition] = [*self._common, *origin]
        return found


def encode_dead_letter(letter: DeadLetter, topic: str) -> OutRecord:
    """Return the dead letter as a record: the original whole, and why it failed in string headers.

    Headers of an earlier dead letter of the same record give way to the new ones.
    """
    record = letter.record
    kept = [header for header in record.headers if not header[0].startswith(DEAD_LETTER_PREFIX)]
    return OutRecord(topic, record.key, record.value, [*kept, *_reasons(letter)])


def encode_bare_dead_letter(letter: DeadLetter, topic: str) -> OutRecord:
    """Return the dead letter without the original's value and headers, for one too large to publish.

    Its key is left out too if it is longer than `MAX_BARE_KEY_BYTES`.
    """
    key = letter.record.key
    keeps_key = key is None or len(key) <= MAX_BARE_KEY_BYTES
    omitted = b"value,headers" if keeps_key else b"key,value,headers"
    headers = [*_reasons(letter), (f"{DEAD_LETTER_PREFIX}omitted", omitted)]
    return OutRecord(topic, key if keeps_key else None, None, headers)


def encode_redacted_dead_letter(letter: DeadLetter, topic: str) -> OutRecord:
    """Return the dead letter without user text: key, id and trace stay, and the value's length and hash.

    Whoever has the value finds its letters by the hash. The record itself is where the letter says.
    A key over `MAX_BARE_KEY_BYTES` is left out.
    """
    record = letter.record
    value = record.value or b""
    trace = [header for header in record.headers if header[0] == TRACE_HEADERS[0] and _is_trace(header[1])]
    stand_in = {"redacted": b"value,headers", "value_bytes": b"%d" % len(value)}
    stand_in["value_sha256"] = sha256(value).hexdigest().encode()
    headers = [(DEAD_LETTER_PREFIX + name, told) for name, told in stand_in.items()]
    key = record.key if record.key is None or len(record.key) <= MAX_BARE_KEY_BYTES else None
    return OutRecord(topic, key, None, [*trace, *_reasons(replace(letter, error=_plain(letter))), *headers])


def letter_encoders(*, hides_text: bool) -> tuple[LetterEncoder, LetterEncoder]:
    """Return what encodes a dead letter, and what does if the broker finds that too large."""
    if hides_text:
        return encode_redacted_dead_letter, encode_redacted_dead_letter
    return encode_dead_letter, encode_bare_dead_letter


def _is_trace(traceparent: bytes | None) -> bool:
    return traceparent is not None and _TRACEPARENT.fullmatch(traceparent) is not None


def _plain(letter: DeadLetter) -> str:
    """Return what failed, without what a message may quote: a field's content, or a model's own words."""
    if letter.reason in _PLAIN_REASONS:
        return letter.error
    # An internal fault's message begins with its class, which `flow.outcomes` has put there.
    return letter.error.partition(":")[0] if letter.reason == INTERNAL else REDACTED


def _reasons(letter: DeadLetter) -> list[Header]:
    record = letter.record
    reasons: dict[str, object] = {
        "reason": letter.reason,
        "error": letter.error[:MAX_ERROR_CHARS],
        "id": letter.id,
        "stream": letter.stream,
        "stage": letter.stage,
        "attempts": letter.attempts,
        "topic": record.topic,
        "partition": record.partition,
        "offset": record.offset,
        "timestamp_ms": record.timestamp_ms,
    }
    return [(DEAD_LETTER_PREFIX + name, str(text).encode(errors="replace")) for name, text in reasons.items()]


def _known_headers(record: Record) -> dict[str, bytes]:
    """Return the headers that requests are read by; of one that repeats, the last."""
    if not record.headers:
        return {}
    return {name: value for name, value in record.headers if name in _KNOWN_HEADERS and value is not None}


def _check_type(given: bytes | None, task: Task) -> None:
    """Refuse a request of ours for something else; types of other vocabularies are the producer's."""
    if given is None or not given.startswith(_TYPE_PREFIX.encode()):
        return
    expected = f"{_TYPE_PREFIX}{task}.request.v1"
    if given != expected.encode():
        raise UnknownTaskError(f"header 'ce_type' is not {expected}, which this topic takes")


def _checked_id(given: bytes) -> str:
    try:
        identity = given.decode("utf-8")
    except UnicodeDecodeError:
        raise InvalidFieldError("header 'ce_id' is not valid UTF-8") from None
    if not 0 < len(identity) <= MAX_ID_CHARS:
        raise InvalidFieldError(f"header 'ce_id' has {len(identity)} characters, not 1 to {MAX_ID_CHARS}")
    return identity


def _classify_body(fields: dict[str, Any], max_chars: int) -> Body:
    return ClassifyBody(_text(fields, "text", max_chars))


def _translate_body(fields: dict[str, Any], max_chars: int) -> Body:
    text = _text(fields, "text", max_chars, prepare_layout)
    return TranslateBody(text, _language(fields, "source"), _language(fields, "target"))


def _answer_body(fields: dict[str, Any], max_chars: int) -> Body:
    question = _text(fields, "question", max_chars)
    context = None if fields.get("context") is None else _text(fields, "context", max_chars, as_given)
    return AnswerBody(question, context, _name(fields, "collection"), _top_k(fields))


_BODIES: dict[Task, Callable[[dict[str, Any], int], Body]] = {
    Task.CLASSIFY: _classify_body,
    Task.TRANSLATE: _translate_body,
    Task.ANSWER: _answer_body,
}


def _text(
    fields: dict[str, Any], field: str, max_chars: int, prepare: Callable[[str], str] = prepare_text
) -> str:
    given = _string(fields, field)
    if given is None:
        raise EmptyTextError(f"field '{field}' is missing")
    if len(given) > max_chars:
        raise TooLargeError(f"field '{field}' has {len(given)} characters, the limit is {max_chars}")
    text = prepare(given)
    if not text or text.isspace():
        raise EmptyTextError(f"field '{field}' is empty")
    return text


def _name(fields: dict[str, Any], field: str) -> str | None:
    given = _string(fields, field)
    if given is not None and not 0 < len(given) <= MAX_ID_CHARS:
        raise InvalidFieldError(f"field '{field}' has {len(given)} characters, not 1 to {MAX_ID_CHARS}")
    return given


def _language(fields: dict[str, Any], field: str) -> str | None:
    given = _string(fields, field)
    if given is not None and not _LANGUAGE.fullmatch(given):
        raise InvalidFieldError(f"field '{field}' is not a language code such as 'en' or 'pt-BR'")
    return given


def _string(fields: dict[str, Any], field: str) -> str | None:
    given = fields.get(field)
    if given is None:
        return None
    if not isinstance(given, str):
        raise InvalidFieldError(f"field '{field}' is {kind_of(given)}, not a string")
    if not given.isascii():
        try:
            given.encode()
        except UnicodeEncodeError:
            raise MalformedRecordError(f"field '{field}' holds half of a surrogate pair") from None
    return given


def _top_k(fields: dict[str, Any]) -> int | None:
    given = fields.get("top_k")
    if given is None:
        return None
    if isinstance(given, bool) or not isinstance(given, int):
        raise InvalidFieldError(f"field 'top_k' is {kind_of(given)}, not an integer")
    if not 1 <= given <= MAX_TOP_K:
        raise InvalidFieldError(f"field 'top_k' is not between 1 and {MAX_TOP_K}")
    return given
