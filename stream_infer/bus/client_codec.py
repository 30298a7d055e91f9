"""The client's side of the wire: requests to records, and records back to outcomes."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict
from urllib.parse import quote

from stream_infer.bus.batches import OutRecord
from stream_infer.bus.codec import DEAD_LETTER_PREFIX
from stream_infer.bus.values import CONTENT_TYPES, Format, decode_value, encode_value
from stream_infer.errors import MalformedRecordError
from stream_infer.schemas import (
    AnswerBody,
    Body,
    ClassifyBody,
    DeadLetter,
    Record,
    Result,
    Stages,
    TranslateBody,
)

_TASKS: dict[type[Body], str] = {ClassifyBody: "classify", TranslateBody: "translate", AnswerBody: "answer"}
_SOURCE_PREFIX = "/stream_infer/"
_TIMING = re.compile(r"(\w+);dur=([0-9.]+)")
_STAGES = frozenset(Stages._fields)


def encode_request(
    body: Body,
    topic: str,
    identity: str,
    *,
    key: bytes | None = None,
    form: Format = "msgpack",
    traceparent: str = "",
) -> OutRecord:
    """Return a request as a record of its task's topic."""
    fields = {field: value for field, value in asdict(body).items() if value is not None}
    headers: list[tuple[str, bytes | None]] = [
        ("content-type", CONTENT_TYPES[form]),
        ("ce_specversion", b"1.0"),
        ("ce_id", identity.encode()),
        ("ce_type", f"stream_infer.{_TASKS[type(body)]}.request.v1".encode()),
        ("ce_source", b"/stream_infer/client"),
    ]
    if traceparent:
        headers.append(("traceparent", traceparent.encode()))
    return OutRecord(topic, key, encode_value(fields, form), headers)


def encode_document(
    topic: str, document: str, text: str | None, *, collection: str = "default", title: str = ""
) -> OutRecord:
    """Return a document to answer from as a record; a `text` of None deletes it."""
    key = f"{quote(collection, safe='')}/{quote(document, safe='')}".encode()
    if text is None:
        return OutRecord(topic, key, None)
    fields = {"document": document, "collection": collection, "title": title, "text": text}
    return OutRecord(
        topic, key, encode_value(fields, "msgpack"), [("content-type", CONTENT_TYPES["msgpack"])]
    )


def encode_feedback(topic: str, identity: str, label: str, *, key: bytes | None = None) -> OutRecord:
    """Return the right label of a request as a record."""
    fields = {"id": identity, "label": label}
    return OutRecord(
        topic, key, encode_value(fields, "msgpack"), [("content-type", CONTENT_TYPES["msgpack"])]
    )


def outcome_id(record: Record) -> str | None:
    """Return the id of the request that a record of an output topic answers, if it names one."""
    headers = _texts(record)
    return headers.get(f"{DEAD_LETTER_PREFIX}id") or headers.get("ce_id")


def decode_result(record: Record) -> Result:
    """Return the result in a record of an output topic.

    Its `record` is the input's position and key; the headers are the output's, model revision and
    precision among them.

    Raises:
        MalformedRecordError: the record is no result.
    """
    headers = _texts(record)
    try:
        source = Record(
            topic=headers["source_topic"],
            partition=int(headers["source_partition"]),
            offset=int(headers["source_offset"]),
            timestamp_ms=record.timestamp_ms,
            key=record.key,
            value=None,
            headers=record.headers,
        )
        stages = _stages(headers["server-timing"])
        identity, model, stream = headers["ce_id"], headers["model"], headers["ce_source"]
    except (KeyError, ValueError) as error:
        raise MalformedRecordError(f"{record.position}: not a result: {_lacking(error)}") from error
    body = decode_value(record.value or b"", headers.get("content-type", "").encode())
    body.pop("id", None)
    return Result(
        source, identity, stream.removeprefix(_SOURCE_PREFIX), body, model, stages, "late" in headers
    )


def decode_dead_letter(record: Record) -> DeadLetter:
    """Return the dead letter in a record, its `record` being the original as far as it was kept.

    Raises:
        MalformedRecordError: the record is no dead letter.
    """
    headers = _texts(record)
    names = (
        "reason",
        "error",
        "id",
        "stream",
        "stage",
        "attempts",
        "topic",
        "partition",
        "offset",
        "timestamp_ms",
    )
    try:
        reason, error, identity, stream, stage, attempts, topic, partition, offset, timestamp = (
            headers[DEAD_LETTER_PREFIX + name] for name in names
        )
        original = Record(
            topic=topic,
            partition=int(partition),
            offset=int(offset),
            timestamp_ms=int(timestamp),
            key=record.key,
            value=record.value,
            headers=_originals(record.headers),
        )
        return DeadLetter(original, identity, stream, reason, error, stage, int(attempts))
    except (KeyError, ValueError) as fault:
        raise MalformedRecordError(f"{record.position}: not a dead letter: {_lacking(fault)}") from fault


def _lacking(error: KeyError | ValueError) -> str:
    """Return what is wrong with the headers; one that is no number is not quoted, for it may be anything."""
    return (
        f"no header {error}"
        if isinstance(error, KeyError)
        else "a header is not the number that it should be"
    )


def _stages(timing: str) -> Stages:
    """Return the stages that a `server-timing` header names; those of other versions are passed over."""
    return Stages(**{stage: float(ms) / 1e3 for stage, ms in _TIMING.findall(timing) if stage in _STAGES})


def _originals(headers: Sequence[tuple[str, bytes | None]]) -> tuple[tuple[str, bytes | None], ...]:
    return tuple(header for header in headers if not header[0].startswith(DEAD_LETTER_PREFIX))


def _texts(record: Record) -> dict[str, str]:
    return {name: value.decode(errors="replace") for name, value in record.headers if value is not None}
