"""Which offsets of an input partition are done, and how a commit says so.

Records finish out of order, but Kafka commits one position. What is done above that position is
written into the commit's metadata, so that a restart skips it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator

from stream_infer.errors import UnreadableError

MAX_METADATA_BYTES = 4096
"""The broker's default `offset.metadata.max.bytes`; a longer string fails the whole commit."""
MAX_OFFSET = (1 << 63) - 1
"""Kafka's offsets are signed numbers of 64 bits."""

_PREFIX = "si"
_VERSION = f"{_PREFIX}1:"
_END = "."
_MAX_RUN_BYTES = MAX_METADATA_BYTES - len(_VERSION) - len(_END)
_DIGITS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
_VALUES = {digit: value for value, digit in enumerate(_DIGITS)}
_BITS = 5
_MORE = 1 << _BITS
_MAX_BITS = 63


class OffsetTracker:
    """The done offsets of one partition: everything below `position`, and runs above it.

    Offsets are admitted in ascending order. One that never arrives (a transaction marker, a record
    that compaction removed) counts as part of the next admitted one, so gaps cost no metadata.
    """

    __slots__ = ("_blocks", "_end_of", "_kept", "_last", "_next", "_start_of", "position")

    def __init__(self, start: int, done: Iterable[range] = ()) -> None:
        """`start` and `done` are what the last commit said: its position and its parsed metadata."""
        self.position = start
        """The position to commit: every record below it is done."""
        self._next = start
        self._kept = deque(done)
        self._last = self._kept[-1].stop if self._kept else start
        self._blocks: dict[int, int] = {}
        self._end_of: dict[int, int] = {}
        self._start_of: dict[int, int] = {}

    def admit(self, offset: int) -> bool:
        """Return whether the record must be processed: False when it is done or in flight already."""
        start = self._next
        if offset < start:
            return False
        self._next = offset + 1
        if self._kept and self._was_kept(offset):
            self._add_run(start, offset + 1)
            return False
        self._blocks[offset] = start
        return True

    def fits(self, offset: int) -> bool:
        """Return whether the metadata stays within its limit once this offset in flight is done too.

        Always true for the offset that `position` waits for. The size is judged by its upper bound.
        """
        start = self._blocks[offset]
        if start == self.position:
            return True
        end = offset + 1
        runs = len(self._end_of) + len(self._kept) + 1
        runs -= (start in self._start_of) + (end in self._end_of)
        return runs * 2 * _width(max(self._last, end) - self.position) <= _MAX_RUN_BYTES

    def leads(self, offset: int) -> bool:
        """Return whether this offset in flight is the one that `position` waits for."""
        return self._blocks[offset] == self.position

    def finish(self, offset: int) -> None:
        """Count an admitted offset as done; raises ValueError when it is not in flight."""
        start = self._blocks.pop(offset, None)
        if start is None:
            raise ValueError(f"offset {offset} is not in flight")
        self._add_run(start, offset + 1)

    def metadata(self) -> str:
        """Return the done offsets above `position` as ASCII; empty when there are none.

        A version, then for each run the distance from the last run's end and the run's length, as
        base64 variable-length quantities (the digits of source maps, without their sign), then a
        full stop, so that a string that was cut short is not taken for a whole one.
        """
        cursor = self.position
        digits: list[str] = []
        for start, end in self._runs():
            digits += (_encode(start - cursor), _encode(end - start))
            cursor = end
        return f"{_VERSION}{''.join(digits)}{_END}" if digits else ""

    def _was_kept(self, offset: int) -> bool:
        kept = self._kept
        while kept and kept[0].stop <= offset:
            kept.popleft()
        return bool(kept) and offset in kept[0]

    def _add_run(self, start: int, end: int) -> None:
        if start == self.position:
            self.position = end = self._end_of.pop(end, end)
            self._start_of.pop(end, None)
            return
        start = self._start_of.pop(start, start)
        end = self._end_of.pop(end, end)
        self._end_of[start] = end
        self._start_of[end] = start
        self._last = max(self._last, end)

    def _runs(self) -> Iterator[tuple[int, int]]:
        """Yield the runs in ascending order; those that touch come as one."""
        unread = [(max(kept.start, self._next), kept.stop) for kept in self._kept if kept.stop > self._next]
        runs = [*sorted(self._end_of.items()), *unread]
        if not runs:
            return
        start, end = runs[0]
        for following, stop in runs[1:]:
            if following > end:
                yield start, end
                start = following
            end = stop
        yield start, end


def parse_metadata(position: int, text: str) -> tuple[range, ...]:
    """Return the done offsets above a committed position, ascending.

    Nothing, or what another client wrote, says nothing: no offsets. A string that starts like ours
    but cannot be read raises UnreadableError: to guess here would be to repeat or lose records.
    """
    if not text.startswith(_PREFIX):
        return ()
    if not (text.startswith(_VERSION) and text.endswith(_END)):
        raise _unreadable(text)
    numbers = list(_decode(text[len(_VERSION) : -len(_END)], text))
    if not numbers or len(numbers) % 2:
        raise _unreadable(text)
    runs: list[range] = []
    cursor = position
    for skip, length in zip(numbers[::2], numbers[1::2], strict=True):
        if length == 0 or (skip == 0 and runs):
            raise _unreadable(text)
        runs.append(range(cursor + skip, cursor + skip + length))
        cursor = runs[-1].stop
    if cursor > MAX_OFFSET:
        raise _unreadable(text)
    return tuple(runs)


def _unreadable(text: str) -> UnreadableError:
    return UnreadableError(f"commit metadata cannot be read: {text[:80]!r}")


def _width(number: int) -> int:
    """Return how many digits no number up to this one exceeds."""
    return max(1, -(-number.bit_length() // _BITS))


def _encode(number: int) -> str:
    digits = ""
    while number >= _MORE:
        digits += _DIGITS[_MORE | (number & (_MORE - 1))]
        number >>= _BITS
    return digits + _DIGITS[number]


def _decode(digits: str, text: str) -> Iterator[int]:
    number = shift = 0
    for digit in digits:
        value = _VALUES.get(digit)
        if value is None or shift > _MAX_BITS:
            raise _unreadable(text)
        number |= (value & (_MORE - 1)) << shift
        shift += _BITS
        if not value & _MORE:
            yield number
            number = shift = 0
    if shift:
        raise _unreadable(text)
