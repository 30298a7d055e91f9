"""Proof over topics that each input record has one outcome, the right one, in order; without I/O.

What is judged is what README's "The wire" promises: the headers that name a record's source, the id, the
key, and the whole original in a dead letter. Keys, ids and values are kept as 64-bit digests, some 30 bytes
for each input record and some 200 for each distinct key, so topics of many millions can be judged.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Final

from loadgen.outcomes import Message, Outcome, contradicts, expected_id, read_outcome
from loadgen.verdict import Kind, Offender, Ordering, Source, Span, Verdict

LISTED: Final = 100
"""Offenders of each kind that a verdict names; all are counted."""
UNNAMED: Final = "without source headers"

_COUNTED: Final = 255


class Judge:
    """Takes the input records, then the outcomes, each partition in its order, and gives the verdict."""

    def __init__(self, inputs: Mapping[Source, Span], ordering: Ordering = Ordering.KEY) -> None:
        self._ledgers = {source: _Ledger(span) for source, span in inputs.items()}
        self._topics = {topic for topic, _ in inputs}
        self._ordering = ordering
        self._latest: dict[int, int] = {}
        self._partitions: dict[int, int] = {}
        self._seen: Counter[str] = Counter()
        self._foreign: Counter[str] = Counter()
        self._truncated: Counter[Source] = Counter()
        self._counts: Counter[Kind] = Counter()
        self._offenders: list[Offender] = []

    def expect(self, record: Message) -> None:
        """Take an input record: it must have an outcome."""
        self._ledgers[record.topic, record.partition].enter(record)

    def take(self, record: Message) -> None:
        """Take a record of an output topic."""
        outcome = read_outcome(record)
        ledger = self._ledgers.get(outcome.source) if outcome else None
        if outcome is None or (ledger is None and outcome.source[0] not in self._topics):
            self._foreign[f"outcomes of {outcome.source[0]}" if outcome else UNNAMED] += 1
        elif ledger is None:
            self._offend(Kind.UNEXPECTED, outcome, record)
        elif outcome.offset < ledger.span.begin:
            self._take_unjudged(outcome, ledger.span)
        elif not ledger.has(outcome.offset):
            self._offend(Kind.UNEXPECTED, outcome, record)
        else:
            self._take_expected(outcome, ledger, record)

    def verdict(self, doubts: Iterable[str] = (), *, is_whole: bool = True) -> Verdict:
        """Return what was found; `doubts` are reasons from outside why the proof cannot hold.

        Where the outputs are not whole, having no outcome is no offence but one doubt more.
        """
        lost, listed = self._lost()
        reasons = [*doubts, *self._own_doubts()]
        if lost and not is_whole:
            reasons.append(f"{lost} records have no outcome on what can be read of the outputs")
            lost, listed = 0, []
        counts = {**self._counts, Kind.LOST: lost}
        return Verdict(
            records=sum(ledger.records for ledger in self._ledgers.values()),
            results=self._seen["result"],
            dead_letters=self._seen["dead letter"],
            earlier=self._seen["earlier"],
            foreign=dict(self._foreign),
            counts={kind: count for kind, count in sorted(counts.items()) if count},
            offenders=tuple(sorted([*listed, *self._offenders])),
            doubts=tuple(reasons),
        )

    def _lost(self) -> tuple[int, list[Offender]]:
        """Return how many records have no outcome, and the first of them in each partition."""
        count, listed = 0, []
        for (topic, partition), ledger in sorted(self._ledgers.items()):
            offsets = ledger.without_outcome()
            first = list(islice(offsets, LISTED))
            listed += [Offender(Kind.LOST, topic, partition, offset) for offset in first]
            count += len(first) + sum(1 for _ in offsets)
        return count, listed[:LISTED]

    def _own_doubts(self) -> Iterator[str]:
        if not any(ledger.records for ledger in self._ledgers.values()):
            yield "the input holds no records to judge"
        for (topic, partition), ledger in self._ledgers.items():
            if ledger.span.is_truncated:
                known = self._truncated[topic, partition]
                yield (
                    f"{topic}/{partition} is truncated: records before offset {ledger.span.begin} are gone, "
                    f"and outcomes of {known} of them were seen"
                )

    def _take_unjudged(self, outcome: Outcome, span: Span) -> None:
        if outcome.offset < span.first:
            self._seen["earlier"] += 1
        else:
            self._truncated[outcome.source] += 1

    def _take_expected(self, outcome: Outcome, ledger: _Ledger, record: Message) -> None:
        self._seen["dead letter" if outcome.is_dead_letter else "result"] += 1
        if ledger.count(outcome.offset) > 1:
            self._offend(Kind.DUPLICATED, outcome, record)
        if not ledger.has_id(outcome) or contradicts(outcome, record):
            self._offend(Kind.WRONG_ID, outcome, record)
        if not outcome.is_bare:
            self._check_contents(outcome, ledger, record)

    def _check_contents(self, outcome: Outcome, ledger: _Ledger, record: Message) -> None:
        if not ledger.has_key(outcome.offset, record.key):
            self._offend(Kind.WRONG_KEY, outcome, record)
        if outcome.is_dead_letter and not ledger.has_value(outcome.offset, record.value):
            self._offend(Kind.ALTERED, outcome, record)
        self._check_order(outcome, record)

    def _check_order(self, outcome: Outcome, record: Message) -> None:
        if self._ordering is Ordering.NONE or (self._ordering is Ordering.KEY and record.key is None):
            return
        # Where whole partitions are in order, an output partition shows the part that has its keys.
        order = record.key if self._ordering is Ordering.KEY else record.partition
        place = hash((record.topic, order, outcome.source))
        if outcome.offset < self._latest.get(place, -1):
            self._offend(Kind.OUT_OF_ORDER, outcome, record)
        else:
            self._latest[place] = outcome.offset
        if self._ordering is Ordering.KEY:
            home = self._partitions.setdefault(hash((record.topic, record.key)), record.partition)
            if home != record.partition:
                self._offend(Kind.SCATTERED, outcome, record)

    def _offend(self, kind: Kind, outcome: Outcome, record: Message) -> None:
        self._counts[kind] += 1
        if self._counts[kind] <= LISTED:
            seen = f"{record.topic}/{record.partition}/{record.offset}"
            self._offenders.append(Offender(kind, *outcome.source, outcome.offset, seen))


class _Ledger:
    """What is known of the records of one input partition, by offset."""

    def __init__(self, span: Span) -> None:
        size = max(0, span.end - span.begin)
        self.span = span
        self.records = 0
        self._ids, self._keys, self._values = (array("q", bytes(8 * size)) for _ in range(3))
        self._present, self._outcomes = bytearray(size), bytearray(size)

    def enter(self, record: Message) -> None:
        place = record.offset - self.span.begin
        self.records += 1
        self._present[place] = 1
        self._ids[place] = hash(expected_id(record))
        self._keys[place] = hash(record.key)
        self._values[place] = hash(record.value)

    def has(self, offset: int) -> bool:
        place = offset - self.span.begin
        return 0 <= place < len(self._present) and bool(self._present[place])

    def count(self, offset: int) -> int:
        """Count an outcome and return how many there are now, up to a limit."""
        place = offset - self.span.begin
        self._outcomes[place] = min(_COUNTED, self._outcomes[place] + 1)
        return self._outcomes[place]

    def has_id(self, outcome: Outcome) -> bool:
        return self._ids[outcome.offset - self.span.begin] == hash(outcome.id)

    def has_key(self, offset: int, key: bytes | None) -> bool:
        return self._keys[offset - self.span.begin] == hash(key)

    def has_value(self, offset: int, value: bytes | None) -> bool:
        return self._values[offset - self.span.begin] == hash(value)

    def without_outcome(self) -> Iterator[int]:
        return (
            self.span.begin + place
            for place, (is_present, outcomes) in enumerate(zip(self._present, self._outcomes, strict=True))
            if is_present and not outcomes
        )


def judge(
    given: Iterable[Message], came_out: Iterable[Message], ordering: Ordering = Ordering.KEY
) -> Verdict:
    """Return the verdict on records that are at hand, of which none is missing at the beginning."""
    records = list(given)
    ends: dict[Source, int] = {}
    for record in records:
        source = (record.topic, record.partition)
        ends[source] = max(ends.get(source, 0), record.offset + 1)
    judge_ = Judge({source: Span(0, 0, end) for source, end in ends.items()}, ordering)
    for record in records:
        judge_.expect(record)
    for record in came_out:
        judge_.take(record)
    return judge_.verdict()
