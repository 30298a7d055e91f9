"""Reading records whose header names are not UTF-8, which others may write and aiokafka cannot read.

Kafka keeps header names as bytes. aiokafka raises where they are not valid UTF-8, again and again,
so that one such record would stop its partition for ever.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from itertools import islice
from typing import Any, Self, SupportsIndex, overload

from aiokafka.consumer import fetcher
from aiokafka.record.default_records import _DefaultRecordBatchPy
from aiokafka.record.memory_records import MemoryRecords

_LENGTH = struct.Struct(">i")
_LENGTH_OFFSET = 8
_HEADER_BYTES = 12


def accept_any_header_name() -> None:
    """Make every consumer of this process read on; each byte that is not UTF-8 becomes U+FFFD."""
    fetcher.MemoryRecords = TolerantRecords


class TolerantRecords:
    """The batches of one answer to a fetch, each falling back to a tolerant reader."""

    def __init__(self, data: bytes) -> None:
        self._data = memoryview(data)
        self._position = 0
        self._records = MemoryRecords(data)

    def size_in_bytes(self) -> int:
        """Return the answer's size."""
        return int(self._records.size_in_bytes())

    def has_next(self) -> bool:
        """Whether a whole batch is left."""
        return bool(self._records.has_next())

    def next_batch(self) -> Any:
        """Return the next batch."""
        batch = self._records.next_batch()
        start = self._position
        (length,) = _LENGTH.unpack_from(self._data, start + _LENGTH_OFFSET)
        self._position = start + _HEADER_BYTES + length
        return _TolerantBatch(batch, self._data[start : self._position])


class _TolerantBatch:
    """A batch that is read by aiokafka's fast reader up to the first name that stops it."""

    def __init__(self, batch: Any, raw: memoryview) -> None:
        self._batch = batch
        self._raw = raw

    def __getattr__(self, name: str) -> Any:
        return getattr(self._batch, name)

    def __next__(self) -> Any:
        return next(self._batch)

    def __iter__(self) -> Iterator[Any]:
        given = 0
        try:
            for record in self._batch:
                given += 1
                yield record
        except UnicodeDecodeError:
            yield from islice(_read_tolerantly(self._raw), given, None)


def _read_tolerantly(raw: memoryview) -> Iterator[Any]:
    batch = _DefaultRecordBatchPy(raw)
    batch._maybe_uncompress()  # noqa: SLF001 - the text to be tolerated is inside
    batch._buffer = _TolerantBytes(batch._buffer)  # noqa: SLF001
    return iter(batch)


class _TolerantBytes(bytearray):
    """Bytes that decode whatever they hold."""

    @overload
    def __getitem__(self, place: SupportsIndex) -> int: ...
    @overload
    def __getitem__(self, place: slice) -> Self: ...
    def __getitem__(self, place: SupportsIndex | slice) -> int | Self:
        found = super().__getitem__(place)
        return found if isinstance(found, int) else type(self)(found)

    def decode(self, encoding: str = "utf-8", errors: str = "replace") -> str:
        return super().decode(encoding, errors)
