"""What a record of an output topic says of the input record that it is the outcome of; without I/O."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

import msgpack

from loadgen.verdict import Source

Headers = dict[str, bytes]

MAX_ID_CHARS: Final = 256

_DEAD_LETTER: Final = "dead_letter_"
_MAX_DIGITS: Final = 19


class Message(Protocol):
    """The parts of a consumed record that are judged."""

    @property
    def topic(self) -> str:
        """Where it stands."""
        ...

    @property
    def partition(self) -> int:
        """Where it stands."""
        ...

    @property
    def offset(self) -> int:
        """Where it stands."""
        ...

    @property
    def key(self) -> bytes | None:
        """Its key."""
        ...

    @property
    def value(self) -> bytes | None:
        """Its value."""
        ...

    @property
    def headers(self) -> Sequence[tuple[str, bytes | None]]:
        """Its headers."""
        ...


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the headers of a result or dead letter say about the record it is the outcome of."""

    source: Source
    offset: int
    id: bytes
    is_dead_letter: bool
    is_bare: bool
    """A dead letter too large to carry the original."""


def read_outcome(record: Message) -> Outcome | None:
    """Return what a record of an output topic is the outcome of; None if its headers do not say."""
    headers = _headers(record)
    is_dead_letter = f"{_DEAD_LETTER}topic" in headers
    prefix, name = (_DEAD_LETTER, f"{_DEAD_LETTER}id") if is_dead_letter else ("source_", "ce_id")
    topic = headers.get(f"{prefix}topic")
    partition, offset = (_number(headers.get(prefix + each)) for each in ("partition", "offset"))
    if topic is None or partition is None or offset is None:
        return None
    return Outcome(
        source=(topic.decode(errors="replace"), partition),
        offset=offset,
        id=headers.get(name, b""),
        is_dead_letter=is_dead_letter,
        is_bare=is_dead_letter and f"{_DEAD_LETTER}omitted" in headers,
    )


def expected_id(record: Message) -> bytes:
    """Return the id that a record's outcome goes by: its `ce_id`, or its place.

    What is not 1 to 256 characters of UTF-8 is no id.
    """
    given = _headers(record).get("ce_id", b"")
    try:
        is_id = 0 < len(given.decode()) <= MAX_ID_CHARS
    except UnicodeDecodeError:
        is_id = False
    return given if is_id else f"{record.topic}/{record.partition}/{record.offset}".encode()


def contradicts(outcome: Outcome, record: Message) -> bool:
    """Return whether a result's body does not bear the id that its header does."""
    return not outcome.is_dead_letter and _body_id(record.value) != outcome.id.decode(errors="replace")


def _headers(record: Message) -> Headers:
    """Return the headers by name; of one that repeats, the last."""
    return {name: value for name, value in record.headers if value is not None}


def _number(text: bytes | None) -> int | None:
    return int(text) if text is not None and text.isdigit() and len(text) <= _MAX_DIGITS else None


def _body_id(value: bytes | None) -> Any:
    if not value:
        return None
    try:
        body = json.loads(value) if value.startswith(b"{") else msgpack.unpackb(value)
    except (ValueError, RecursionError, msgpack.UnpackException):
        return None
    return body.get("id") if isinstance(body, dict) else None
