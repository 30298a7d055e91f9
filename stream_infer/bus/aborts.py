"""Believing a broker's list of aborted transactions only as far as it is current.

A fetch answer names the aborted transactions that overlap it, and a reader skips what their
producers wrote until it meets the abort marker. noida-db goes on naming transactions that ended
long before the fetched offset: their marker never comes, and committed records of the same producer
would be skipped for ever. Kafka names no such transactions, so there this changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from aiokafka.record.control_record import ABORT_MARKER, ControlRecord
from aiokafka.record.memory_records import MemoryRecords

Aborted = tuple[int, int]
"""A producer's id, and the offset at which its aborted transaction began."""

Ended = dict[Aborted, int]
"""Aborted transactions whose marker was met, and the marker's offset."""

MAX_REMEMBERED = 4_096
"""Aborted transactions that are remembered for each partition, the last of them."""

_LEAST_PARTS = 3
"""Answers before version 4 of the protocol know no transactions, so they have fewer parts."""


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

    One that began before `fetched_from` is over if its marker lies before that too, or if the next
    thing its producer did was to commit. `ended` remembers the markers that were met, and where: what
    was fetched may be thrown away and fetched again, from inside a transaction whose marker was seen.
    """
    markers = list(_markers(records))
    kept = [
        entry
        for entry in aborted
        if entry[1] >= fetched_from or not _is_over(entry, fetched_from, ended, markers)
    ]
    for producer, offset, is_abort in markers:
        for entry in aborted if is_abort else ():
            if entry[0] == producer and entry[1] <= offset:
                ended.setdefault(entry, offset)
    for forgotten in sorted(ended, key=ended.__getitem__)[:-MAX_REMEMBERED]:
        del ended[forgotten]
    return kept


def _is_over(entry: Aborted, fetched_from: int, ended: Ended, markers: list[tuple[int, int, bool]]) -> bool:
    if entry in ended:
        return ended[entry] < fetched_from
    return not _next_is_abort(entry[0], markers)


def _next_is_abort(producer: int, markers: list[tuple[int, int, bool]]) -> bool:
    """Whether the producer's transaction under way was aborted; one that goes on is taken for that."""
    return next((is_abort for owner, _, is_abort in markers if owner == producer), True)


def _markers(records: bytes) -> Iterator[tuple[int, int, bool]]:
    """Yield producer, offset and kind of each marker in the fetched records."""
    batches = MemoryRecords(records)
    while batches.has_next():
        batch = batches.next_batch()
        if batch is not None and batch.is_control_batch:
            is_abort = ControlRecord.parse(next(iter(batch)).key) == ABORT_MARKER
            yield batch.producer_id, batch.base_offset, is_abort
