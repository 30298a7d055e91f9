import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loadgen.latency import CURVE, HIGHEST_SECONDS, Latencies
from loadgen.recorder import Event, Recorder


def event(number: int, due: float = 0.0, *, is_poison: bool = False) -> Event:
    return Event(due, f"run-{number}", None, b"body", is_poison)


def recorder_of(*events: Event, warm_up: float = 0.0) -> Recorder:
    """Return a recorder of events that left when they were due."""
    recorder = Recorder(warm_up)
    for each in events:
        recorder.send(each, each.due)
        recorder.acknowledge(each, is_written=True)
    return recorder


def test_latency_counts_from_when_an_event_was_due() -> None:
    """An event that left half a second late shows the half second."""
    recorder = Recorder()
    recorder.send(event(0, due=1.0), now=1.5)
    recorder.receive("run-0", 1.75, is_dead_letter=False)

    assert 750.0 == pytest.approx(recorder.latencies.percentile_ms(100.0), rel=0.001)
    assert 0.5 == recorder.send_lag


def test_the_share_within_a_budget_counts_what_is_just_as_long() -> None:
    latencies = Latencies()
    assert 1.0 == latencies.share_within(500.0)
    for seconds in (0.1, 0.2, 0.5, 0.9):
        latencies.record(seconds)

    assert [0.0, 0.5, 0.75, 1.0] == [latencies.share_within(each) for each in (50.0, 498.0, 500.0, 5e6)]


def test_outcomes_are_counted_by_what_they_are() -> None:
    recorder = recorder_of(event(0), event(1), event(2, is_poison=True), event(3, is_poison=True))
    recorder.receive("run-0", 1.0, is_dead_letter=False)
    recorder.receive("run-1", 1.0, is_dead_letter=True)
    recorder.receive("run-2", 1.0, is_dead_letter=True)
    recorder.receive("run-3", 1.0, is_dead_letter=False)

    assert (2, 2, 0) == (recorder.results, recorder.dead_letters, recorder.outstanding)
    assert (2, 1, 1) == (recorder.poison_sent, recorder.poison_results, recorder.good_dead_letters)


def test_outcomes_that_repeat_and_those_of_others_are_told_apart() -> None:
    recorder = recorder_of(event(0))
    for identity in ("run-0", "run-0", "another"):
        recorder.receive(identity, 1.0, is_dead_letter=False)

    assert (1, 1, 1) == (recorder.outcomes, recorder.repeated, recorder.foreign)


def test_the_warm_up_counts_in_its_seconds_alone() -> None:
    recorder = recorder_of(event(0, due=0.5), event(1, due=2.0), warm_up=2.0)
    recorder.receive("run-0", 2.1, is_dead_letter=False)
    recorder.receive("run-1", 2.2, is_dead_letter=False)
    recorder.finish(2.5)

    assert 1 == recorder.latencies.count
    assert 1_600.0 == pytest.approx(recorder.seconds[2].max_ms, rel=0.01)


def test_each_second_says_what_happened_in_it_and_what_is_still_out() -> None:
    recorder = recorder_of(event(0, due=0.25), event(1, due=0.5), event(2, due=1.5))
    recorder.receive("run-0", 1.75, is_dead_letter=False)
    recorder.finish(3.25)
    first, second, third, last = recorder.seconds

    assert (2, 0, 2, 750.0) == (first.sent, first.outcomes, first.outstanding, first.oldest_ms)
    assert (1, 1, 2, 1_500.0) == (second.sent, second.outcomes, second.outstanding, second.oldest_ms)
    assert 1_500.0 == pytest.approx(second.p99_ms, rel=0.001)
    assert (None, 2, 2_500.0) == (third.p50_ms, third.outstanding, third.oldest_ms)
    assert 3 == last.second


def test_what_is_left_when_sending_ends_is_kept() -> None:
    recorder = recorder_of(event(0), event(1))
    recorder.end_sending(1.0)
    recorder.receive("run-0", 2.0, is_dead_letter=False)

    assert (2, 1) == (recorder.left_when_sent, recorder.outstanding)


def test_no_latency_is_no_number() -> None:
    assert {None} == set(Latencies().summary().values())


def test_what_is_out_of_range_is_counted_at_its_end() -> None:
    latencies = Latencies()
    latencies.record(-1.0)
    latencies.record(2 * HIGHEST_SECONDS)

    assert 2 == latencies.count
    assert HIGHEST_SECONDS * 1_000 == pytest.approx(latencies.percentile_ms(100.0), rel=0.001)


@settings(max_examples=25)  # a histogram is large to make
@given(st.lists(st.floats(0.001, 100.0), min_size=1, max_size=200))
def test_percentiles_are_those_of_the_values_to_three_digits(values: list[float]) -> None:
    latencies = Latencies()
    for value in values:
        latencies.record(value)

    assert 1_000 * max(values) == pytest.approx(latencies.percentile_ms(100.0), rel=0.002)
    middle = sorted(values)[(len(values) + 1) // 2 - 1]
    assert 1_000 * middle == pytest.approx(latencies.percentile_ms(50.0), rel=0.002)
    assert list(CURVE) == [percentile for percentile, _ in latencies.curve()]
