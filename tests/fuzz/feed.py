"""Values drawn from a fuzzer's bytes, so that a change of one byte changes one decision."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from stream_infer.schemas import Record

T = TypeVar("T")

_WIDE_BYTES = 8
_MAX_HEADERS = 6
_NAMES = (
    "ce_id",
    "ce_type",
    "ce_source",
    "content-type",
    "traceparent",
    "tracestate",
    "source_topic",
    "source_partition",
    "source_offset",
    "server-timing",
    "model",
    "model_revision",
    "late",
    *(
        f"dead_letter_{name}"
        for name in (
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
            "omitted",
        )
    ),
)
"""The headers that some reader of ours looks at."""


class Feed:
    """A cursor over the bytes; behind their end all is zero and empty."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._place = 0

    @property
    def is_left(self) -> bool:
        """Whether there are bytes left."""
        return self._place < len(self._data)

    def below(self, limit: int) -> int:
        """Return a number from 0 to `limit` - 1, at most 255, made of one byte."""
        taken = self._take(1)
        return taken[0] % limit if taken else 0

    def wide(self) -> int:
        """Return a signed number of 64 bits."""
        return int.from_bytes(self._take(_WIDE_BYTES), "little", signed=True)

    def choice(self, options: Sequence[T]) -> T:
        """Return one of the options."""
        return options[self.below(len(options))]

    def piece(self) -> bytes:
        """Return up to 255 bytes: one byte says how many."""
        return self._take(self.below(256))

    def text(self) -> str:
        """Return a piece as text without surrogates."""
        return self.piece().decode(errors="replace")

    def rest(self) -> bytes:
        """Return all that is left."""
        return self._take(len(self._data))

    def optional(self) -> bytes | None:
        """Return a piece, or None."""
        return self.piece() if self.below(2) else None

    def record(self) -> Record:
        """Return a record whose value is all that is left."""
        partition, offset, timestamp_ms = self.below(8), abs(self.wide()), self.wide()
        key, headers = self.optional(), self.headers()
        return Record(
            "topic", partition, offset, timestamp_ms, key, self.rest() if self.below(8) else None, headers
        )

    def headers(self) -> tuple[tuple[str, bytes | None], ...]:
        """Return some headers, most of them known by name."""
        return tuple(self._header() for _ in range(self.below(_MAX_HEADERS)))

    def _header(self) -> tuple[str, bytes | None]:
        number = self.below(len(_NAMES) + 1)
        name = _NAMES[number] if number < len(_NAMES) else self.text()
        return name, self.optional()

    def _take(self, size: int) -> bytes:
        taken = self._data[self._place : self._place + size]
        self._place += size
        return taken
