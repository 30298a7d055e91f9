"""Believing a broker's list of aborted transactions only as far as it is current.

A fetch answer names the aborted transactions that overlap it, and a reader skips what their
producers wrote until it meets the abort marker. noida-db goes on naming transactions that ended
long before the fetched offset: their marker never comes, and committed records of the same producer
would be skipped for ever. Kafka names no such transactions, so there this changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from aiokafka.record.control_record import ABORT_MARKER, ControlRecord
from aiokafka.record.memory_records import MemoryRecords

Aborted = tuple[int, int]
"""A producer's id, and the offset at which its aborted transaction began."""

Ended = dict[Aborted, int]
"""Aborted transactions, and an offset at which or before which their marker lies."""

MAX_REMEMBERED = 4_096
"""Aborted transactions that are remembered for each partition, the last of them."""

_LEAST_PARTS = 3
"""Answers before version 4 of the protocol know no transactions, so they have fewer parts."""


@dataclass(frozen=True, slots=True)
class _Marker:
    """What ends a transaction."""

    producer: int
    offset: int
    is_abort: bool


class AbortFilter:
    """Stands between a consumer and its connection, and takes ended transactions off the lists."""

    def __init__(self, consumer: Any) -> None:
        self._ended: dict[tuple[str, int], Ended] = {}
        client = consumer._client  # noqa: SLF001 - aiokafka has no hook for what the broker answers
        self._send = client.send
        client.send = self.send

    async def send(self, node: int, request: Any, **options: Any) -> Any:
        """Send a request; of an answer to a fetch, only current aborts are left."""
        answer = await self._send(node, request, **options)
        if type(request).__name__.startswith("FetchRequest"):
            self._clean(request, answer)
        return answer

    def _clean(self, request: Any, answer: Any) -> None:
        offsets = {
            (topic, partition): offset
            for topic, partitions in request.topics
            for partition, offset, _ in partitions
        }
        for topic, partitions in answer.topics:
            for partition, _error, _end, *parts in partitions:
                aborted = next((part for part in parts if isinstance(part, list)), None)
                if len(parts) >= _LEAST_PARTS and aborted:
                    ended = self._ended.setdefault((topic, partition), {})
                    aborted[:] = current_aborts(aborted, parts[-1], offsets[topic, partition], ended)


def current_aborts(aborted: list[Aborted], records: bytes, fetched_from: int, ended: Ended) -> list[Aborted]:
    """Return those of `aborted` that a reader of `records` has to heed.

    `ended` remembers of transactions where they had ended at the latest: what was fetched may be
    thrown away and fetched again, from inside a transaction whose marker was seen.
    """
    markers = list(_markers(records))
    kept = []
    for entry in aborted:
        if ended.get(entry, fetched_from) < fetched_from:
            continue
        if _is_over(entry, aborted, markers, fetched_from):
            ended[entry] = fetched_from - 1
            continue
        kept.append(entry)
        marker = _next_marker(entry, markers)
        if marker is not None and marker.is_abort:
            ended.setdefault(entry, marker.offset)
    if len(ended) > MAX_REMEMBERED:
        for forgotten in sorted(ended, key=ended.__getitem__)[:-MAX_REMEMBERED]:
            del ended[forgotten]
    return kept


def _is_over(entry: Aborted, aborted: list[Aborted], markers: list[_Marker], fetched_from: int) -> bool:
    """Whether a transaction had ended before `fetched_from`; one of which nothing is seen goes on.

    A producer has one transaction at a time. So it had if the next thing its producer did was to
    commit, or if the marker that comes next ends a transaction that began later.
    """
    producer, began = entry
    if began >= fetched_from:
        return False
    following = min((each for owner, each in aborted if owner == producer and each > began), default=None)
    marker = _next_marker(entry, markers)
    if marker is None:
        return following is not None and following < fetched_from
    return not marker.is_abort or (following is not None and following <= marker.offset)


def _next_marker(entry: Aborted, markers: list[_Marker]) -> _Marker | None:
    producer, began = entry
    return next((each for each in markers if each.producer == producer and each.offset > began), None)


def _markers(records: bytes) -> Iterator[_Marker]:
    """Yield the markers in the fetched records."""
    batches = MemoryRecords(records)
    while batches.has_next():
        batch = batches.next_batch()
        if batch is not None and batch.is_control_batch:
            is_abort = ControlRecord.parse(next(iter(batch)).key) == ABORT_MARKER
            yield _Marker(batch.producer_id, batch.base_offset, is_abort)
