"""Label trends are a recount of what was read, whatever was read twice and wherever it was cut off."""

from collections import Counter
from collections.abc import Iterable, Sequence

import msgpack
from hypothesis import given
from hypothesis import strategies as st

from stream_infer.streams.observations import LabelledResult, Position
from stream_infer.streams.trends import (
    RETAINED_MS,
    Change,
    LabelTrends,
    Window,
    WindowName,
    encode_window,
    trend_record,
)

WINDOW, GRACE = 1_000, 500
RECORDS = st.tuples(
    st.integers(0, 2), st.integers(0, 6_000), st.sampled_from("ab"), st.sampled_from(["one", "two"])
)
Stored = dict[bytes, bytes]
Counts = dict[tuple[str, int], Counter[str]]


def result(
    offset: int, timestamp_ms: int, label: str = "a", *, partition: int = 0, stream: str = "one"
) -> LabelledResult:
    position = Position("results", partition, offset)
    return LabelledResult(position, timestamp_ms, f"{partition}-{offset}", label, stream, "model", "r1")


def trends(stored: Stored | None = None) -> LabelTrends:
    return LabelTrends(WINDOW, GRACE, (stored or {}).items())


def store(changes: Iterable[Change], stored: Stored) -> None:
    for name, window in changes:
        if window is None:
            stored.pop(name.key, None)
        else:
            stored[name.key] = encode_window(window)


def counts(stored: Stored) -> Counts:
    named = {WindowName.of_key(key): msgpack.unpackb(value)["counts"] for key, value in stored.items()}
    return {(name.stream, name.start_ms): Counter(found) for name, found in named.items()}


def recount(records: Iterable[LabelledResult]) -> Counts:
    """Count one partition after the other, as a batch job would."""
    found: Counts = {}
    clocks: Counter[tuple[str, int]] = Counter()
    for item in sorted(records, key=lambda one: one.position):
        clock = (item.stream, item.position.partition)
        start = item.timestamp_ms // WINDOW * WINDOW
        if start + WINDOW + GRACE > clocks[clock]:
            found.setdefault((item.stream, start), Counter())[item.label] += 1
            clocks[clock] = max(clocks[clock], item.timestamp_ms)
    return found


def numbered(drawn: Sequence[tuple[int, int, str, str]]) -> list[LabelledResult]:
    offsets: Counter[int] = Counter()
    found = []
    for partition, timestamp_ms, label, stream in drawn:
        found.append(result(offsets[partition], timestamp_ms, label, partition=partition, stream=stream))
        offsets[partition] += 1
    return found


def test_windows_begin_with_their_start_and_end_before_the_next() -> None:
    counted, stored = trends(), dict[bytes, bytes]()
    for offset, timestamp_ms in enumerate([0, 999, 1_000]):
        counted.add(result(offset, timestamp_ms))

    store(counted.take_changes(), stored)

    assert {("one", 0): Counter(a=2), ("one", 1_000): Counter(a=1)} == counts(stored)


def test_only_changed_windows_are_given_and_the_oldest_first() -> None:
    """A clock must not be stored before the counts that it closes."""
    counted = trends()
    for offset, timestamp_ms in enumerate([2_000, 1_100, 1_200]):
        counted.add(result(offset, timestamp_ms))
    assert [1_000, 2_000] == [name.start_ms for name, _ in counted.take_changes()]

    counted.add(result(3, 2_500))

    assert [2_000] == [name.start_ms for name, _ in counted.take_changes()]
    assert [] == counted.take_changes()


def test_a_late_result_is_not_counted_but_told() -> None:
    counted = trends()
    counted.add(result(0, 1_499))
    counted.add(result(1, 500))
    assert not counted.late

    counted.add(result(2, 1_500))
    counted.add(result(3, 600))

    assert {"one": 1} == counted.late
    assert 2 == sum(
        window.counts.total() for name, window in counted.take_changes() if window and name.start_ms
    )


def test_a_partition_that_runs_ahead_makes_no_other_late() -> None:
    counted, stored = trends(), dict[bytes, bytes]()
    counted.add(result(0, 1_000_000, partition=0))
    counted.add(result(0, 10, partition=1))

    store(counted.take_changes(), stored)

    assert Counter(a=1) == counts(stored)["one", 0]


def test_windows_are_forgotten_a_day_after() -> None:
    counted, stored = trends(), dict[bytes, bytes]()
    counted.add(result(0, 10))
    store(counted.take_changes(), stored)

    counted.add(result(1, RETAINED_MS + 2_000))
    counted.add(result(0, 20, partition=1))
    store(counted.take_changes(), stored)

    assert {("one", RETAINED_MS + 2_000)} == set(counts(stored))
    assert {"one": 1} == counted.late


def test_windows_of_another_length_are_dropped() -> None:
    """They cannot be told apart into windows of the new length."""
    before = LabelTrends(2 * WINDOW, GRACE)
    before.add(result(0, 10))
    stored: Stored = {}
    store(before.take_changes(), stored)

    store(trends(stored).take_changes(), stored)

    assert not stored


@given(st.lists(RECORDS, max_size=60), st.data())
def test_counts_after_crashes_are_those_of_a_recount(
    drawn: list[tuple[int, int, str, str]], data: st.DataObject
) -> None:
    """The process dies while it stores: some windows are stored, and all since the commit comes again."""
    records = numbered(drawn)
    stored: Stored = {}
    counted, committed = trends(), 0
    for attempt in range(4):
        end = len(records) if attempt == 3 else data.draw(st.integers(committed, len(records)))
        for item in records[committed:end]:
            counted.add(item)
        changes = counted.take_changes()
        if data.draw(st.booleans()) or attempt == 3:
            store(changes, stored)
            committed = end
        else:
            store(changes[: data.draw(st.integers(0, len(changes)))], stored)
            counted = trends(stored)

    assert recount(records) == counts(stored)


@given(st.lists(RECORDS, max_size=60))
def test_counts_do_not_depend_on_how_partitions_interleave(drawn: list[tuple[int, int, str, str]]) -> None:
    records = numbered(drawn)
    one_after_another = sorted(records, key=lambda item: item.position)
    for order in (records, one_after_another):
        counted, stored = trends(), dict[bytes, bytes]()
        for item in order:
            counted.add(item)
        store(counted.take_changes(), stored)
        assert recount(records) == counts(stored)


def test_the_record_names_the_window_and_counts_every_label() -> None:
    name = WindowName(60_000, 60_000, "posts/de")
    window = Window(Counter(good=2, bad=1), {})

    out = trend_record(name, window, "trends")

    assert b"posts/de/60000/60000" == out.key
    assert name == WindowName.of_key(out.key)
    assert {
        "stream": "posts/de",
        "start_ms": 60_000,
        "end_ms": 120_000,
        "counts": {"good": 2, "bad": 1},
        "total": 3,
    } == msgpack.unpackb(out.value or b"")
