"""Offsets: nothing is processed twice or lost, whatever finishes in whatever order and dies in between."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from stream_infer.flow.offsets import MAX_METADATA_BYTES, MAX_OFFSET, OffsetTracker, parse_metadata


def tracker_with(offsets: range, finished: list[int], start: int | None = None) -> OffsetTracker:
    tracker = OffsetTracker(offsets.start if start is None else start)
    for offset in offsets:
        tracker.admit(offset)
    for offset in finished:
        tracker.finish(offset)
    return tracker


def test_position_is_the_first_offset_not_done() -> None:
    tracker = tracker_with(range(10, 15), [11, 12])
    assert 10 == tracker.position
    tracker.finish(10)
    assert 13 == tracker.position


def test_position_jumps_over_offsets_that_never_arrive() -> None:
    """Transaction markers and compacted records leave gaps, before and between records."""
    tracker = OffsetTracker(10)
    for offset in (13, 14, 17):
        assert tracker.admit(offset)
    tracker.finish(14)
    assert 10 == tracker.position
    tracker.finish(13)
    assert 15 == tracker.position
    tracker.finish(17)
    assert 18 == tracker.position
    assert not tracker.metadata()


def test_gaps_cost_no_metadata() -> None:
    tracker = OffsetTracker(0)
    for offset in range(0, 10_000, 2):
        tracker.admit(offset)
    assert not tracker.metadata()
    tracker.finish(4)
    tracker.finish(6)
    assert (range(3, 7),) == parse_metadata(0, tracker.metadata())


def test_an_offset_is_admitted_once() -> None:
    tracker = OffsetTracker(0)
    assert tracker.admit(0)
    assert not tracker.admit(0)


def test_finishing_what_is_not_in_flight_is_an_error() -> None:
    tracker = tracker_with(range(3), [1])
    for offset in (1, 7):
        with pytest.raises(ValueError, match="not in flight"):
            tracker.finish(offset)


def test_commit_before_the_old_runs_are_read_again_keeps_them() -> None:
    """A second crash right after a restart must not forget what was done above the position."""
    before = tracker_with(range(10), [2, 3, 7])
    tracker = OffsetTracker(0, parse_metadata(0, before.metadata()))
    assert tracker.admit(0)
    tracker.finish(0)
    assert 1 == tracker.position
    assert (range(2, 4), range(7, 8)) == parse_metadata(1, tracker.metadata())


def test_a_commit_in_the_middle_of_an_old_run_keeps_the_rest_of_it() -> None:
    tracker = OffsetTracker(5, [range(6, 100)])
    assert [5] == [offset for offset in range(5, 50) if tracker.admit(offset)]
    assert (range(6, 100),) == parse_metadata(5, tracker.metadata())
    tracker.finish(5)
    assert 50 == tracker.position
    assert (range(50, 100),) == parse_metadata(50, tracker.metadata())


@given(start=st.integers(0, 1 << 40), finished=st.sets(st.integers(0, 300)))
def test_decode_inverts_encode(start: int, finished: set[int]) -> None:
    tracker = tracker_with(range(start, start + 301), [start + offset for offset in finished])
    text = tracker.metadata()
    assert text.isascii()
    decoded = {offset for run in parse_metadata(tracker.position, text) for offset in run}
    assert {start + offset for offset in finished if start + offset > tracker.position} == decoded


@pytest.mark.parametrize("text", ["", "aiokafka", "host-7", '{"v":1}'])
def test_foreign_metadata_says_nothing(text: str) -> None:
    assert () == parse_metadata(5, text)


@pytest.mark.parametrize(
    "text",
    [
        "si",
        "si1",
        "si2:BB.",
        "si1:",
        "si1:.",
        "si1:BB",
        "si1:B.",
        "si1:BA.",
        "si1:BBAB.",
        "si1:B!.",
        "si1:Bg.",
        "si1:BBg.",
        "si1:" + "g" * 20 + "BB.",
    ],
)
def test_garbled_metadata_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="metadata"):
        parse_metadata(5, text)


def test_metadata_beyond_the_last_offset_is_refused() -> None:
    last = MAX_OFFSET - 1
    text = OffsetTracker(5, [range(last, MAX_OFFSET)]).metadata()
    assert (range(last, MAX_OFFSET),) == parse_metadata(5, text)
    with pytest.raises(ValueError, match="metadata"):
        parse_metadata(6, text)


@given(finished=st.sets(st.integers(0, 99), min_size=2), cut=st.integers(1, 3))
def test_metadata_that_was_cut_short_is_refused(finished: set[int], cut: int) -> None:
    text = tracker_with(range(-1, 100), sorted(finished)).metadata()
    with pytest.raises(ValueError, match="metadata"):
        parse_metadata(0, text[:-cut])


@settings(max_examples=10)
@given(seed=st.integers(0, 1 << 30), count=st.sampled_from([900, 5_000, 40_000]))
def test_metadata_never_exceeds_its_limit(seed: int, count: int) -> None:
    """Finishing at random what fits fills the metadata, never beyond; the first offset always fits."""
    tracker = tracker_with(range(count), [])
    pick = random.Random(seed)
    refused = 0
    for offset in pick.sample(range(1, count), min(count - 1, 4_000)):
        if tracker.fits(offset):
            tracker.finish(offset)
        else:
            refused += 1
    assert len(tracker.metadata()) <= MAX_METADATA_BYTES
    assert refused > 0 or count == 900
    assert tracker.fits(0)
    tracker.finish(0)
    assert len(tracker.metadata()) <= MAX_METADATA_BYTES


class CrashingConsumer(RuleBasedStateMachine):
    """Reads a log with gaps, finishes in any order, commits now and then, crashes at any time."""

    def __init__(self) -> None:
        super().__init__()
        self.log: list[int] = []
        self.published: list[int] = []
        self.commit = (0, "")
        self.restart()

    @rule()
    def restart(self) -> None:
        """Start again from the last commit."""
        position, metadata = self.commit
        self.tracker = OffsetTracker(position, parse_metadata(position, metadata))
        self.read = position
        self.in_flight: list[int] = []
        self.finished: list[int] = []

    @rule(gaps=st.lists(st.integers(0, 3), min_size=1, max_size=8))
    def produce(self, gaps: list[int]) -> None:
        """Append records; a gap is a marker or a record that compaction removed."""
        for gap in gaps:
            self.log.append((self.log[-1] + 1 if self.log else 0) + gap)

    @rule(count=st.integers(1, 8))
    def fetch(self, count: int) -> None:
        """Read the next records."""
        for offset in [offset for offset in self.log if offset >= self.read][:count]:
            if self.tracker.admit(offset):
                self.in_flight.append(offset)
            self.read = offset + 1

    @precondition(lambda self: self.in_flight)
    @rule(data=st.data())
    def finish(self, data: st.DataObject) -> None:
        """Finish any record in flight."""
        offset = data.draw(st.sampled_from(self.in_flight))
        self.in_flight.remove(offset)
        self.tracker.finish(offset)
        self.finished.append(offset)

    @rule()
    def publish(self) -> None:
        """One transaction: what was finished, and the commit that says so."""
        self.published += self.finished
        self.finished = []
        self.commit = (self.tracker.position, self.tracker.metadata())

    @invariant()
    def nothing_is_published_twice(self) -> None:
        """No offset is in the output twice."""
        assert len(self.published) == len(set(self.published))

    @invariant()
    def nothing_below_the_position_is_lost(self) -> None:
        """The position never passes a record that is not done."""
        done = {*self.published, *self.finished}
        assert all(offset in done for offset in self.log if offset < self.tracker.position)

    def teardown(self) -> None:
        """Let it run to the end: all is published, once."""
        self.restart()
        self.fetch(len(self.log))
        for offset in list(self.in_flight):
            self.tracker.finish(offset)
            self.published.append(offset)
        assert self.log == sorted(self.published)
        if self.log:
            assert self.log[-1] + 1 == self.tracker.position
        assert not self.tracker.metadata()
        assert not self.tracker._end_of  # nothing is left behind
        assert not self.tracker._start_of


TestCrashingConsumer = pytest.mark.slow(CrashingConsumer.TestCase)
TestCrashingConsumer.settings = settings(max_examples=40, stateful_step_count=40)
