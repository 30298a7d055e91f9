"""What labels are counted from: one observation for each result of a classify stream and each feedback.

Results of all classify streams and all feedback meet on one topic of one partition. Whoever folds
it sees everything, so trends are totals, and feedback finds its result whatever keys, partitions
and streams the two came by. An observation names the record that it was made of: a record that was
read again makes an equal observation, which can be told from a new one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

from stream_infer.bus.batches import OutRecord
from stream_infer.bus.client_codec import decode_result
from stream_infer.bus.values import CONTENT_TYPES, decode_value, encode_value, kind_of
from stream_infer.errors import InvalidFieldError, MalformedRecordError
from stream_infer.schemas import Record

MAX_CHARS: Final = 256
"""The longest id and the longest label."""


@dataclass(frozen=True, slots=True, order=True)
class Position:
    """The record that an observation was made of."""

    topic: str
    partition: int
    offset: int

    @property
    def source(self) -> str:
        """The partition that the record stands in."""
        return f"{self.topic}/{self.partition}"


@dataclass(frozen=True, slots=True)
class LabelledResult:
    """The label that a model gave; `timestamp_ms` is when the result was published."""

    position: Position
    timestamp_ms: int
    id: str
    label: str
    stream: str
    model: str
    revision: str


@dataclass(frozen=True, slots=True)
class Feedback:
    """The label that somebody says is right."""

    position: Position
    timestamp_ms: int
    id: str
    label: str


Observation = LabelledResult | Feedback


def observe_result(record: Record) -> LabelledResult:
    """Return what a record of a classify stream's output says.

    Raises:
        MalformedRecordError: it is no such result.
    """
    result = decode_result(record)
    label, revision = result.body.get("label"), dict(record.headers).get("model_revision") or b""
    if not isinstance(label, str):
        raise MalformedRecordError(f"{record.position}: not a classification: it has no label")
    position = Position(record.topic, record.partition, record.offset)
    return LabelledResult(
        position,
        record.timestamp_ms,
        result.id,
        label,
        result.stream,
        result.model,
        revision.decode(errors="replace"),
    )


def observe_feedback(record: Record) -> Feedback:
    """Return what a record of the feedback topic says.

    Raises:
        RecordError: it has no id or no label.
    """
    content_type = dict(record.headers).get("content-type")
    fields = decode_value(record.value or b"", content_type)
    position = Position(record.topic, record.partition, record.offset)
    return Feedback(position, record.timestamp_ms, _short(fields, "id"), _short(fields, "label"))


def encode_observation(observation: Observation, topic: str) -> OutRecord:
    """Return the observation as a record of the topic where all meet."""
    return OutRecord(
        topic,
        None,
        encode_value(to_fields(observation), "msgpack"),
        [("content-type", CONTENT_TYPES["msgpack"])],
    )


def decode_observation(record: Record) -> Observation:
    """Return the observation in a record.

    Raises:
        MalformedRecordError: it is none.
    """
    try:
        return from_fields(decode_value(record.value or b"", CONTENT_TYPES["msgpack"]))
    except MalformedRecordError as error:
        raise MalformedRecordError(f"{record.position}: not an observation: {error}") from error


def to_fields(observation: Observation) -> dict[str, Any]:
    """Return the observation as a map; `from_fields` undoes it."""
    return asdict(observation)


def from_fields(fields: dict[str, Any]) -> Observation:
    """Return the observation that `to_fields` made the map of.

    Raises:
        MalformedRecordError: it did not make this map; a field is missing or has the wrong type.
    """
    place = _required(fields, "position", dict)
    position = Position(_word(place, "topic"), _number(place, "partition"), _number(place, "offset"))
    said = (position, _number(fields, "timestamp_ms"), _word(fields, "id"), _word(fields, "label"))
    if "model" not in fields:
        return Feedback(*said)
    return LabelledResult(*said, *(_word(fields, name) for name in ("stream", "model", "revision")))


def _word(fields: Mapping[str, Any], name: str) -> str:
    return str(_required(fields, name, str))


def _number(fields: Mapping[str, Any], name: str) -> int:
    return int(_required(fields, name, int))


def _required(fields: Mapping[str, Any], name: str, kind: type) -> Any:
    value = fields.get(name)
    if type(value) is not kind:
        raise MalformedRecordError(f"field '{name}' is {kind_of(value)}")
    return value


def _short(fields: dict[str, Any], name: str) -> str:
    given = fields.get(name)
    if not isinstance(given, str):
        raise InvalidFieldError(f"field '{name}' is {kind_of(given)}, not a string")
    if not 0 < len(given) <= MAX_CHARS:
        raise InvalidFieldError(f"field '{name}' has {len(given)} characters, not 1 to {MAX_CHARS}")
    return given
