"""Pieces in the order of their deadlines."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Collection, Iterator

from stream_infer.flow.pending import Pending


class DeadlineQueue:
    """Pieces by deadline, the earliest first, equals as they came.

    A sorted list: most pieces arrive with the latest deadline so far, and the queue is as short as
    back-pressure keeps it. A piece's deadline must not change while it is queued.
    """

    __slots__ = ("_added", "_entries", "_order")

    def __init__(self) -> None:
        self._entries: list[tuple[float, int, Pending]] = []
        self._order: dict[Pending, int] = {}
        self._added = 0

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, item: Pending) -> bool:
        return item in self._order

    def __iter__(self) -> Iterator[Pending]:
        """Go through the pieces in order; the queue must not change meanwhile."""
        return (entry[2] for entry in self._entries)

    @property
    def first(self) -> Pending:
        """The most urgent piece of a queue that is not empty."""
        return self._entries[0][2]

    def add(self, item: Pending) -> None:
        """Put the piece in its place."""
        self._added += 1
        self._order[item] = self._added
        insort(self._entries, (item.deadline, self._added, item))

    def remove(self, item: Pending) -> None:
        """Take a queued piece out."""
        entry = (item.deadline, self._order.pop(item), item)
        del self._entries[bisect_left(self._entries, entry)]

    def pop(self) -> Pending:
        """Take the most urgent piece out."""
        item = self._entries.pop(0)[2]
        del self._order[item]
        return item

    def window(self, count: int) -> list[Pending]:
        """Return the most urgent pieces, in order, up to `count`; they stay queued."""
        return [entry[2] for entry in self._entries[:count]]

    def remove_from_window(self, items: Collection[Pending], count: int) -> None:
        """Take those of the most urgent `count` pieces out that are among `items`."""
        for item in items:
            self._order.pop(item, None)
        self._entries[:count] = [entry for entry in self._entries[:count] if entry[2] in self._order]
