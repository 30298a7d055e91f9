"""What has come of the records under test so far, as it is committed."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager

from loadgen.outcomes import read_outcome
from stream_infer.bus.connection import Connection
from stream_infer.bus.follower import TopicFollower
from stream_infer.schemas import Record

Condition = Callable[[], bool]

REASON = "dead_letter_reason"


class Progress:
    """Knows for each input partition which records have their outcome, and can be waited on."""

    def __init__(self) -> None:
        self.finished: Counter[int] = Counter()
        """How many records of each partition have at least one outcome."""
        self.furthest: dict[int, int] = {}
        """The offset behind the furthest record of each partition that has one."""
        self.reasons: Counter[str] = Counter()
        """How many dead letters there are, by their reason."""
        self._stamps_ms: tuple[int, int] = (0, 0)
        self._seen: dict[int, bytearray] = {}
        self._changed = asyncio.Event()

    @property
    def total(self) -> int:
        """How many records have an outcome."""
        return self.finished.total()

    def is_stamped_after(self, at_ms: int) -> bool:
        """Return whether an outcome of those that came last says that it was written after a time."""
        return self._stamps_ms[1] > at_ms

    def is_stamped_before(self, at_ms: int) -> bool:
        """Return whether an outcome of those that came last says that it was written before a time."""
        return 0 < self._stamps_ms[0] < at_ms

    def take(self, records: Sequence[Record]) -> None:
        """Note outcomes."""
        stamps_ms = [record.timestamp_ms for record in records]
        self._stamps_ms = (min(stamps_ms, default=0), max(stamps_ms, default=0))
        for record in records:
            outcome = read_outcome(record)
            if outcome is None:
                continue
            if outcome.is_dead_letter:
                self.reasons[_reason(record)] += 1
            self._note(outcome.source[1], outcome.offset)
        self._changed.set()

    async def passes(self, marks: Mapping[int, int]) -> None:
        """Return once each partition has the outcome of a record at its mark or behind it."""
        await self._until(lambda: all(self.furthest.get(p, 0) > mark for p, mark in marks.items()))

    async def finishes(self, ends: Mapping[int, int]) -> None:
        """Return once every record before the ends has its outcome."""
        await self._until(lambda: all(self.finished[p] >= end for p, end in ends.items()))

    async def changes(self) -> None:
        """Return once more outcomes have come."""
        self._changed.clear()
        await self._changed.wait()

    async def _until(self, holds: Condition) -> None:
        while not holds():
            await self.changes()

    def _note(self, partition: int, offset: int) -> None:
        seen = self._seen.setdefault(partition, bytearray())
        if offset >= len(seen):
            seen.extend(bytes(offset + 1 - len(seen)))
        self.finished[partition] += not seen[offset]
        seen[offset] = 1
        self.furthest[partition] = len(seen)


@asynccontextmanager
async def watched(connection: Connection, topics: Sequence[str]) -> AsyncIterator[Progress]:
    """Follow the topics of outcomes while the context lasts."""
    progress = Progress()
    async with TopicFollower(connection, topics) as follower:
        task = asyncio.create_task(_follow(follower, progress))
        try:
            yield progress
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


async def _follow(follower: TopicFollower, progress: Progress) -> None:
    async for records in follower:
        progress.take(records)


def _reason(record: Record) -> str:
    return (dict(record.headers).get(REASON) or b"").decode()
