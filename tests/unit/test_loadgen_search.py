import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadgen.recorder import Event, Recorder
from loadgen.search import Bracket, Limits, Trial, judge_trial, search

LIMITS = Limits(budget_ms=500.0, first_rate=10.0, highest_rate=10_000.0)


def trial(rate: float, *, held: bool) -> Trial:
    return Trial(rate, rate, 1.0, 0, "" if held else "p99 is too high")


async def rates_tried(capacity: float, limits: Limits = LIMITS) -> list[Trial]:
    """Search a service that carries exactly `capacity`."""

    async def attempt(rate: float) -> Trial:
        return trial(rate, held=rate <= capacity)

    return [each async for each in search(limits, attempt)]


@given(st.floats(0.2, 9_000.0))
async def test_the_highest_rate_is_found_within_the_tolerance(capacity: float) -> None:
    trials = await rates_tried(capacity)
    best = max(each.rate for each in trials if each.held)

    assert best <= capacity <= best * (1 + LIMITS.tolerance) + 1e-9
    assert LIMITS.most_trials > len(trials)


async def test_rates_double_and_then_close_in() -> None:
    rates = [each.rate for each in await rates_tried(45.0)]

    assert [10.0, 20.0, 40.0, 80.0, math.sqrt(40 * 80)] == rates[:5]


async def test_a_ceiling_that_holds_ends_the_search() -> None:
    assert [10.0, 20.0, 30.0] == [each.rate for each in await rates_tried(1e9, Limits(500.0, 10.0, 30.0))]


async def test_a_service_that_carries_nothing_ends_the_search() -> None:
    trials = await rates_tried(0.0)

    assert not any(each.held for each in trials)
    assert LIMITS.lowest_rate <= trials[-1].rate < 2 * LIMITS.lowest_rate


async def test_trials_are_bounded() -> None:
    assert 3 == len(await rates_tried(45.0, Limits(500.0, 10.0, 1e4, most_trials=3)))


def test_a_bracket_keeps_both_ends() -> None:
    bracket = Bracket().after(trial(10.0, held=True)).after(trial(20.0, held=False))

    assert Bracket(10.0, 20.0) == bracket
    assert Bracket(15.0, 20.0) == bracket.after(trial(15.0, held=True))


def carried(latency: float = 0.1, sent_late: float = 0.0) -> Recorder:
    """Return a second's run of ten a second, each outcome after the same time."""
    recorder = Recorder()
    events = [Event(number / 10, f"run-{number}", None, b"") for number in range(10)]
    moments = sorted(
        [(event.due + sent_late, 0, event) for event in events]
        + [(event.due + latency, 1, event) for event in events],
        key=lambda moment: moment[:2],
    )
    for now, kind, event in moments:
        if kind:
            recorder.receive(event.id, now, is_dead_letter=False)
        else:
            recorder.send(event, now)
    return recorder


def test_a_rate_holds_while_p99_is_within_the_budget() -> None:
    assert judge_trial(carried(0.4), 10.0, 500.0).held
    assert "p99 is 60" in judge_trial(carried(0.6), 10.0, 500.0).reason


def test_a_rate_does_not_hold_while_lag_grows() -> None:
    recorder = carried()
    recorder.left_when_sent = 10

    assert judge_trial(recorder, 10.0, 500.0).held
    recorder.left_when_sent = 11
    assert "11 events were under way" in judge_trial(recorder, 10.0, 500.0).reason


def test_lost_and_refused_events_do_not_hold() -> None:
    lost, refused, broken = carried(), carried(), carried()
    lost.send(Event(1.0, "lost", None, b""), 1.0)
    refused.failed = 2
    broken.fault = "the broker went away"

    assert "1 events have no outcome" == judge_trial(lost, 10.0, 500.0).reason
    assert "2 events were not taken" in judge_trial(refused, 10.0, 500.0).reason
    assert "the broker went away" == judge_trial(broken, 10.0, 500.0).reason


def test_a_late_sender_is_not_taken_for_a_slow_service() -> None:
    assert "load generator itself" in judge_trial(carried(0.4, sent_late=0.3), 10.0, 500.0).reason


def test_a_run_that_ends_in_the_warm_up_says_nothing() -> None:
    recorder = Recorder(warm_up=60.0)
    recorder.send(Event(0.0, "run-0", None, b""), 0.0)
    recorder.receive("run-0", 0.1, is_dead_letter=False)

    assert "warm-up" in judge_trial(recorder, 10.0, 500.0).reason


@pytest.mark.parametrize("budget_ms", [100.0, 1_000.0])
def test_trials_say_what_was_measured(budget_ms: float) -> None:
    found = judge_trial(carried(0.1), 10.0, budget_ms)

    assert (10.0, 0) == (found.rate, found.left_when_sent)
    assert 100.0 == pytest.approx(found.p99_ms, rel=0.01)
