"""Which dead letters go back to their input topics, and how it is remembered which have gone."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from hashlib import sha256

from stream_infer.errors import UnreadableError
from stream_infer.flow.offsets import MAX_OFFSET, OffsetTracker, parse_metadata
from stream_infer.schemas import DeadLetter, Record

UNREADABLE = "unreadable"
"""The reason shown for records that are no dead letters of this service."""

_PLACE = re.compile(r"(\d{1,9})/(\d{1,18})")
_DURATION = re.compile(r"(\d{1,9})(s|m|h|d)")
_SECONDS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}


@dataclass(frozen=True, slots=True, order=True)
class Place:
    """Where a dead letter lies on its topic."""

    partition: int
    offset: int

    def __str__(self) -> str:
        return f"{self.partition}/{self.offset}"


@dataclass(frozen=True, slots=True)
class Entry:
    """A record of the dead-letter topic; `letter` is None and `fault` says why where it cannot be read.

    A redacted one has `value_sha256`, the SHA-256 of the value that it does not hold.
    """

    place: Place
    timestamp_ms: int
    letter: DeadLetter | None
    fault: str = ""
    is_omitted: bool = False
    is_redacted: bool = False
    value_sha256: str = ""

    @property
    def reason(self) -> str:
        """The dead letter's reason."""
        return self.letter.reason if self.letter else UNREADABLE

    def obstacle(self, inputs: Collection[str], existing: Collection[str]) -> str:
        """Return why this cannot go back, or nothing.

        `inputs` are the topics that streams read and `existing` those of them that are there. A
        header can name any topic, and only inputs are written to.
        """
        if self.letter is None:
            return self.fault
        if self.is_omitted:
            return "its value was too large to be kept"
        topic = self.letter.record.topic
        if topic not in inputs:
            return f"no stream of these settings reads topic {topic!r}"
        return "" if topic in existing else f"topic {topic!r} does not exist"

    def stems_from(self, source: Record) -> bool:
        """Return whether a record is the one that this redacted dead letter was made of.

        What lies in its place now may be another: topics are deleted and made anew.
        """
        if self.letter is None or self.letter.record.timestamp_ms != source.timestamp_ms:
            return False
        return sha256(source.value or b"").hexdigest() == self.value_sha256


@dataclass(frozen=True, slots=True)
class Selection:
    """Which dead letters are meant: those that meet every condition given."""

    reason: str | None = None
    stream: str | None = None
    since_ms: int | None = None
    places: frozenset[Place] = frozenset()

    def takes(self, entry: Entry) -> bool:
        """Return whether the entry is meant."""
        stream = entry.letter.stream if entry.letter else None
        return (
            self.reason in {None, entry.reason}
            and self.stream in {None, stream}
            and (self.since_ms is None or entry.timestamp_ms >= self.since_ms)
            and (not self.places or entry.place in self.places)
        )


@dataclass(frozen=True, slots=True)
class Mark:
    """What was put back of one partition: all that was below `position`, and the runs above it."""

    position: int = 0
    runs: tuple[range, ...] = ()

    def covers(self, offset: int) -> bool:
        """Return whether the dead letter at this offset was put back."""
        if offset < self.position:
            return True
        index = bisect_right(self.runs, offset, key=lambda run: run.start)
        return index > 0 and offset in self.runs[index - 1]


@dataclass(frozen=True, slots=True)
class Step:
    """What one transaction puts back, and what is remembered once it is committed."""

    offsets: tuple[int, ...]
    mark: Mark


def plan_replay(present: Iterable[int], chosen: Collection[int], mark: Mark, most: int) -> Iterator[Step]:
    """Yield the steps, of at most `most` offsets each, that put back what `mark` does not cover.

    `present` are the offsets of all dead letters of the partition, ascending, from the oldest that
    is left; what lies between them is gone for good and costs no memory. `chosen` are some of them.
    A step's mark holds only if all steps before it were committed.
    """
    tracker = OffsetTracker(mark.position, mark.runs)
    step: list[int] = []
    for offset in present:
        if tracker.admit(offset) and offset in chosen:
            tracker.finish(offset)
            step.append(offset)
        if len(step) == most:
            yield Step(tuple(step), _mark_of(tracker))
            step = []
    if step:
        yield Step(tuple(step), _mark_of(tracker))


def encode_mark(mark: Mark) -> dict[str, object]:
    """Return the mark as the fields of a record."""
    return {"position": mark.position, "replayed": OffsetTracker(mark.position, mark.runs).metadata()}


def decode_mark(fields: Mapping[str, object]) -> Mark:
    """Return the mark in a record's fields.

    Raises:
        UnreadableError: they hold none; to guess would be to put dead letters back twice.
    """
    position, replayed = fields.get("position"), fields.get("replayed")
    if not (isinstance(position, int) and 0 <= position <= MAX_OFFSET and isinstance(replayed, str)):
        raise UnreadableError("it says not which dead letters were put back")
    runs = parse_metadata(position, replayed)
    if replayed and not runs:
        raise UnreadableError(f"runs of offsets cannot be read: {replayed[:80]!r}")
    return Mark(position, runs)


def parse_place(text: str) -> Place:
    """Return the place that is written `partition/offset`.

    Raises:
        UnreadableError: it is not.
    """
    if not (found := _PLACE.fullmatch(text)):
        raise UnreadableError(f"{text!r} is not a place such as 0/17: partition, slash, offset")
    return Place(int(found[1]), int(found[2]))


def parse_duration(text: str) -> int:
    """Return the seconds of a duration such as `90s`, `15m`, `2h` or `7d`.

    Raises:
        UnreadableError: it is none.
    """
    if not (found := _DURATION.fullmatch(text)):
        raise UnreadableError(f"{text!r} is not a duration such as 90s, 15m, 2h or 7d")
    return int(found[1]) * _SECONDS[found[2]]


def _mark_of(tracker: OffsetTracker) -> Mark:
    return Mark(tracker.position, parse_metadata(tracker.position, tracker.metadata()))
