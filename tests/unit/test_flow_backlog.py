"""A backlog says how far behind a stream is, also where part of it is only estimated."""

import pytest

from stream_infer.flow.backlog import Backlog, Share, backlog
from stream_infer.flow.pressure import Load

NOW_MS = 100_000
IDLE = Share(Load(0, 0), None, 0)


def test_nothing_is_no_backlog() -> None:
    assert Backlog() == backlog([], NOW_MS)
    assert Backlog() == backlog([IDLE], NOW_MS)


def test_partitions_add_up_and_the_oldest_record_decides() -> None:
    shares = [
        Share(Load(2, 50), NOW_MS - 500, 1),
        IDLE,
        Share(Load(1, 10), NOW_MS - 2_500, 0),
    ]
    assert Backlog(4, 80, 2.5) == backlog(shares, NOW_MS)


def test_unfetched_records_are_as_long_as_those_in_flight() -> None:
    assert Backlog(110, 1_100, 0.0) == backlog([Share(Load(10, 100), NOW_MS, 100)], NOW_MS)


def test_unfetched_records_of_unknown_length_are_counted() -> None:
    assert Backlog(7, 0, 0.0) == backlog([Share(Load(0, 0), None, 7)], NOW_MS)


@pytest.mark.parametrize("timestamp_ms", [-1, NOW_MS + 60_000])
def test_a_timestamp_that_says_nothing_counts_as_now(timestamp_ms: int) -> None:
    assert 0.0 == backlog([Share(Load(1, 1), timestamp_ms, 0)], NOW_MS).seconds


def test_a_record_of_the_first_millisecond_has_an_age() -> None:
    assert 100.0 == backlog([Share(Load(1, 1), 0, 0)], NOW_MS).seconds
