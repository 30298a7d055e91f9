"""One input partition: what is in flight, what may be published, and the position to commit with it."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from stream_infer.flow.offsets import OffsetTracker
from stream_infer.flow.ordering import OrderGate
from stream_infer.flow.pressure import Load, estimate_tokens
from stream_infer.schemas import Ordering, Outcome, Record


@dataclass(frozen=True, slots=True)
class Publication:
    """What goes into one transaction: the outcomes, and the commit that makes them final."""

    outcomes: tuple[Outcome, ...]
    position: int
    metadata: str


class InputPartition:
    """Takes the records of one partition in and hands their outcomes out, each exactly once.

    Of a partition that was lost nothing is published any more: drop the object. The next owner's is
    made from the last commit, and admits again what was not published.
    """

    def __init__(self, start: int, done: Iterable[range], ordering: Ordering) -> None:
        """`start` and `done` are the last commit's position and parsed metadata (`parse_metadata`)."""
        self.records = 0
        """How many records are buffered: admitted and not yet published."""
        self.tokens = 0
        """About how many tokens those hold."""
        self._tracker = OffsetTracker(start, done)
        self._gate = OrderGate(ordering)
        self._buffered: dict[int, tuple[int, int]] = {}
        """The timestamp and the tokens of each buffered record, by its offset, the lowest first."""
        self._publishable: deque[Outcome] = deque()
        self._open: Publication | None = None

    @property
    def load(self) -> Load:
        """What is buffered, for back-pressure."""
        return Load(self.records, self.tokens)

    @property
    def oldest_ms(self) -> int | None:
        """The timestamp of the buffered record with the lowest offset, or None if none is buffered."""
        return next((timestamp_ms for timestamp_ms, _ in self._buffered.values()), None)

    @property
    def position(self) -> int:
        """The position that the last publication commits, or the one it started from."""
        return self._tracker.position

    @property
    def is_drained(self) -> bool:
        """Whether every admitted record is published."""
        return self.records == 0

    def admit(self, records: Iterable[Record]) -> list[Record]:
        """Take fetched records, in offset order, and return those to process.

        Left out are those that were published before a restart, and those taken already.
        """
        fresh = [record for record in records if self._tracker.admit(record.offset)]
        for record in fresh:
            self._gate.admit(record)
            tokens = estimate_tokens(record)
            self._buffered[record.offset] = record.timestamp_ms, tokens
            self.tokens += tokens
        self.records += len(fresh)
        return fresh

    def finish(self, outcome: Outcome) -> None:
        """Take the outcome of an admitted record; it is published after those before it in its order."""
        self._publishable.extend(self._gate.finish(outcome))

    def take_publishable(self, limit: int) -> Publication | None:
        """Return what the next transaction publishes: up to `limit` outcomes, or None.

        None too while a publication is open: it must be `published` first, however many transactions
        that takes. Outcomes that the commit's metadata has no room for wait until the position has
        caught up.
        """
        if self._open or not self._publishable:
            return None
        self._open = self._collect(limit)
        return self._open

    def published(self, publication: Publication) -> None:
        """Forget the outcomes of the open publication: its transaction is committed."""
        if publication is not self._open:
            raise ValueError("this publication is not open")
        self._open = None
        self.records -= len(publication.outcomes)
        for outcome in publication.outcomes:
            _, tokens = self._buffered.pop(outcome.record.offset)
            self.tokens -= tokens

    def _collect(self, limit: int) -> Publication | None:
        """Choose outcomes and finish their offsets.

        1. In the order in which they became publishable, as long as the metadata has room. 2. Once
        it has none, only those that move the position, lowest offset first: they come after every
        record that is before them in any order. The others wait, in their order.
        """
        taken: list[Outcome] = []
        while (
            self._publishable and len(taken) < limit and self._tracker.fits(_offset_of(self._publishable[0]))
        ):
            taken.append(self._finish(self._publishable.popleft()))
        if self._publishable and len(taken) < limit:
            taken += self._collect_leading(limit - len(taken))
        if not taken:
            return None
        return Publication(tuple(taken), self._tracker.position, self._tracker.metadata())

    def _collect_leading(self, limit: int) -> Sequence[Outcome]:
        taken: dict[int, Outcome] = {}
        for outcome in sorted(self._publishable, key=_offset_of):
            if len(taken) == limit or not self._tracker.leads(_offset_of(outcome)):
                break
            taken[_offset_of(outcome)] = self._finish(outcome)
        if taken:
            self._publishable = deque(each for each in self._publishable if _offset_of(each) not in taken)
        return list(taken.values())

    def _finish(self, outcome: Outcome) -> Outcome:
        self._tracker.finish(outcome.record.offset)
        return outcome


def _offset_of(outcome: Outcome) -> int:
    return outcome.record.offset
