"""A partition: every record is published once, in order, with the commit that says so."""

import random

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from stream_infer.flow.offsets import MAX_METADATA_BYTES, parse_metadata
from stream_infer.flow.partition import InputPartition, Publication
from stream_infer.schemas import Ordering, Record, Result


def record(offset: int, key: bytes | None = None, value: bytes = b"") -> Record:
    return Record("requests", 0, offset, 0, key, value)


def outcome(of: Record) -> Result:
    return Result(of, of.position, "s", {}, "m")


def offsets(publication: Publication | None) -> list[int]:
    return [each.record.offset for each in publication.outcomes] if publication else []


def partition_with(count: int, ordering: Ordering = Ordering.NONE) -> InputPartition:
    partition = InputPartition(0, (), ordering)
    partition.admit(record(offset) for offset in range(count))
    return partition


def test_only_one_publication_is_open() -> None:
    partition = partition_with(2)
    partition.finish(outcome(record(0)))
    first = partition.take_publishable(10)
    partition.finish(outcome(record(1)))
    assert first
    assert partition.take_publishable(10) is None
    partition.published(first)
    assert [1] == offsets(partition.take_publishable(10))


def test_a_publication_is_closed_once() -> None:
    partition = partition_with(1)
    partition.finish(outcome(record(0)))
    publication = partition.take_publishable(1)
    assert publication
    partition.published(publication)
    with pytest.raises(ValueError, match="not open"):
        partition.published(publication)


def test_load_counts_records_until_they_are_published() -> None:
    partition = InputPartition(0, (), Ordering.KEY)
    partition.admit([record(0, value=b"x" * 300), record(1, value=b"x" * 30)])
    assert (2, 112) == (partition.load.records, partition.load.tokens)
    partition.finish(outcome(record(0, value=b"x" * 300)))
    publication = partition.take_publishable(10)
    assert publication
    assert 2 == partition.records
    partition.published(publication)
    assert (1, 11) == (partition.load.records, partition.load.tokens)
    assert not partition.is_drained


def test_the_oldest_is_the_first_that_is_not_published() -> None:
    partition = InputPartition(0, (), Ordering.NONE)
    records = [Record("requests", 0, offset, 1_000 + offset, None, b"") for offset in range(3)]
    partition.admit(records)
    for offset in (1, 0):
        partition.finish(outcome(records[offset]))
        publication = partition.take_publishable(10)
        assert publication
        assert 1_000 == partition.oldest_ms
        partition.published(publication)
    assert 1_002 == partition.oldest_ms


def test_an_empty_partition_has_no_oldest() -> None:
    assert InputPartition(0, (), Ordering.NONE).oldest_ms is None


def test_records_published_before_a_restart_are_left_out() -> None:
    partition = InputPartition(5, (range(6, 8),), Ordering.KEY)
    fresh = partition.admit([record(5), record(6), record(7), record(8)])
    assert [5, 8] == [each.offset for each in fresh]
    assert 2 == partition.records


def test_a_stuck_record_holds_others_back_only_when_the_metadata_is_full() -> None:
    """The head is stuck while every other one finishes in scattered order; then it comes free."""
    count = 8_000
    partition = partition_with(count)
    pick = random.Random(7)
    published: list[int] = []
    for offset in pick.sample(range(1, count), count - 1):
        partition.finish(outcome(record(offset)))
        if offset % 50 == 0:
            published += publish(partition)
    assert 0 < len(published) < count - 1
    partition.finish(outcome(record(0)))
    while batch := publish(partition):
        published += batch
    assert sorted(published) == list(range(count))
    assert count == partition.position
    assert partition.is_drained


def publish(partition: InputPartition) -> list[int]:
    publication = partition.take_publishable(500)
    if publication is None:
        return []
    assert len(publication.metadata) <= MAX_METADATA_BYTES
    partition.published(publication)
    return offsets(publication)


class Owner(RuleBasedStateMachine):
    """Owners of one partition, one after the other: each may die with anything in flight."""

    @initialize(ordering=st.sampled_from(Ordering))
    def start(self, ordering: Ordering) -> None:
        """Choose the order that is promised."""
        self.ordering = ordering
        self.log: list[Record] = []
        self.topic: list[int] = []
        self.commit = (0, "")
        self.take_over()

    @rule()
    def take_over(self) -> None:
        """The last owner died, or was fenced; what it had not committed is aborted."""
        position, metadata = self.commit
        self.partition = InputPartition(position, parse_metadata(position, metadata), self.ordering)
        self.read = position
        self.in_flight: list[Record] = []
        self.open: Publication | None = None

    @rule(keys=st.lists(st.sampled_from([None, b"a", b"b"]), max_size=8), gap=st.integers(0, 2))
    def produce(self, keys: list[bytes | None], gap: int) -> None:
        """Append records, after a gap."""
        start = self.log[-1].offset + 1 + gap if self.log else gap
        self.log += [record(start + index, key) for index, key in enumerate(keys)]

    @rule(count=st.integers(1, 8))
    def fetch(self, count: int) -> None:
        """Read the next records."""
        records = [each for each in self.log if each.offset >= self.read][:count]
        self.in_flight += self.partition.admit(records)
        self.read = records[-1].offset + 1 if records else self.read

    @precondition(lambda self: self.in_flight)
    @rule(data=st.data())
    def finish(self, data: st.DataObject) -> None:
        """Finish any record in flight."""
        one = data.draw(st.sampled_from(self.in_flight))
        self.in_flight.remove(one)
        self.partition.finish(outcome(one))

    @rule(limit=st.integers(1, 5))
    def begin(self, limit: int) -> None:
        """Open a transaction, if anything is publishable and none is open."""
        self.open = self.partition.take_publishable(limit) or self.open

    @precondition(lambda self: self.open)
    @rule()
    def committed(self) -> None:
        """Commit the open transaction: its outcomes and its position become visible together."""
        assert self.open
        self.partition.published(self.open)
        self.topic += offsets(self.open)
        self.commit = (self.open.position, self.open.metadata)
        self.open = None

    @invariant()
    def nothing_is_repeated(self) -> None:
        """No offset is in the output twice."""
        assert len(self.topic) == len(set(self.topic))

    @invariant()
    def order_is_kept(self) -> None:
        """Of what is ordered, the output is in input order."""
        keys = {each.offset: each.key for each in self.log}
        for key in (b"a", b"b") if self.ordering is Ordering.KEY else ():
            of_key = [offset for offset in self.topic if keys[offset] == key]
            assert of_key == sorted(of_key)
        if self.ordering is Ordering.PARTITION:
            assert self.topic == sorted(self.topic)

    def teardown(self) -> None:
        """Let a last owner run to the end: all is published, once."""
        if not hasattr(self, "log"):
            return
        self.take_over()
        self.fetch(len(self.log) + 1)
        for one in reversed(self.in_flight):
            self.partition.finish(outcome(one))
        while publication := self.partition.take_publishable(3):
            self.partition.published(publication)
            self.topic += offsets(publication)
        assert [each.offset for each in self.log] == sorted(self.topic)
        assert self.partition.is_drained


TestOwner = pytest.mark.slow(Owner.TestCase)
TestOwner.settings = settings(max_examples=40, stateful_step_count=40)
