"""Back-pressure: bounded, fair, without flutter."""

from hypothesis import given
from hypothesis import strategies as st

from stream_infer.flow.pressure import Change, Load, Pressure, estimate_tokens
from stream_infer.schemas import Partition, Record

BUSY, QUIET = Partition("requests", 0), Partition("requests", 1)
NOTHING = Change(frozenset(), frozenset())


def test_the_busy_partition_is_paused_and_the_quiet_one_is_not() -> None:
    pressure = Pressure(1000, 10_000)
    assert NOTHING == pressure.change({BUSY: Load(499, 0), QUIET: Load(0, 0)})
    change = pressure.change({BUSY: Load(495, 0), QUIET: Load(5, 0)})
    assert Change(frozenset({BUSY}), frozenset()) == change


def test_tokens_count_as_well_as_records() -> None:
    pressure = Pressure(1000, 10_000)
    change = pressure.change({BUSY: Load(3, 6_000), QUIET: Load(5, 0)})
    assert {BUSY} == change.pause


def test_a_paused_partition_is_resumed_well_below_what_paused_it() -> None:
    pressure = Pressure(1000, 10_000)
    pressure.change({BUSY: Load(500, 0)})
    assert NOTHING == pressure.change({BUSY: Load(400, 0)})
    assert {BUSY} == pressure.change({BUSY: Load(374, 0)}).resume


def test_a_partition_that_is_gone_is_not_resumed() -> None:
    pressure = Pressure(1000, 10_000)
    pressure.change({BUSY: Load(500, 0)})
    assert NOTHING == pressure.change({QUIET: Load(0, 0)})


def test_estimate_is_not_below_the_tokens_of_short_texts() -> None:
    assert 1 == estimate_tokens(Record("requests", 0, 0, 0, None, None))
    assert 11 == estimate_tokens(Record("requests", 0, 0, 0, None, b"x" * 30))
    assert 14 == estimate_tokens(Record("requests", 0, 0, 0, b"k" * 9, b"x" * 30))
    assert 101 == estimate_tokens(
        Record("requests", 0, 0, 0, None, None, (("h" * 9, b"v" * 291), ("", None)))
    )


@given(
    fetches=st.lists(st.tuples(st.integers(0, 3), st.integers(0, 50), st.integers(0, 50)), max_size=60),
)
def test_what_is_buffered_is_bounded_by_the_limit_and_one_fetch_each(
    fetches: list[tuple[int, int, int]],
) -> None:
    pressure = Pressure(400, 1_000_000)
    buffered = dict.fromkeys((Partition("requests", number) for number in range(4)), 0)
    for number, fetched, published in fetches:
        partition = Partition("requests", number)
        if partition not in pressure.paused:
            buffered[partition] += fetched
        pressure.change({each: Load(records, 0) for each, records in buffered.items()})
        assert sum(buffered.values()) <= 400 + 4 * 50
        buffered[partition] = max(0, buffered[partition] - published)
        pressure.change({each: Load(records, 0) for each, records in buffered.items()})


@given(loads=st.lists(st.integers(0, 1000), min_size=1, max_size=8))
def test_somebody_is_paused_only_when_half_the_room_is_used(loads: list[int]) -> None:
    pressure = Pressure(1000, 1_000_000)
    change = pressure.change(
        {Partition("requests", number): Load(records, 0) for number, records in enumerate(loads)}
    )
    assert bool(change.pause) == (sum(loads) >= 500)
