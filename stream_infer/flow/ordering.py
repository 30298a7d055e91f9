"""The gate that holds an outcome back until those before it in its order are out."""

from __future__ import annotations

from collections import deque

from stream_infer.schemas import Ordering, Outcome, Record


class OrderGate:
    """Releases the outcomes of one partition in the order that was asked for.

    With `Ordering.KEY`, records without a key have no order among themselves or with others.
    """

    __slots__ = ("_finished", "_ordering", "_queues")

    def __init__(self, ordering: Ordering) -> None:
        self._ordering = ordering
        self._queues: dict[bytes, deque[int]] = {}
        self._finished: dict[int, Outcome] = {}

    def admit(self, record: Record) -> None:
        """Take the record's place in its order; records come in input order."""
        key = self._order_of(record)
        if key is None:
            return
        queue = self._queues.get(key)
        if queue is None:
            self._queues[key] = deque((record.offset,))
        else:
            queue.append(record.offset)

    def finish(self, outcome: Outcome) -> list[Outcome]:
        """Return the outcomes that may appear now, in order: this one, those that waited for it, or none."""
        key = self._order_of(outcome.record)
        if key is None:
            return [outcome]
        queue = self._queues[key]
        if queue[0] != outcome.record.offset:
            self._finished[outcome.record.offset] = outcome
            return []
        queue.popleft()
        released = [outcome]
        while queue and queue[0] in self._finished:
            released.append(self._finished.pop(queue.popleft()))
        if not queue:
            del self._queues[key]
        return released

    def _order_of(self, record: Record) -> bytes | None:
        if self._ordering is Ordering.KEY:
            return record.key
        return b"" if self._ordering is Ordering.PARTITION else None
