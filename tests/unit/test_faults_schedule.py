"""Schedules of faults: the same for the same seed, and every fault has its turn."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from tests.faults.schedule import Share, draw_schedule

SHARES = {"kill": Share(), "stop": Share(2.0), "down": Share(0.5, limit=1), "never": Share(limit=0)}


@given(st.integers(0, 200), st.integers())
def test_the_seed_determines_the_schedule(count: int, seed: int) -> None:
    assert draw_schedule(SHARES, count, seed) == draw_schedule(dict(reversed(SHARES.items())), count, seed)


@given(st.integers(3, 200), st.integers())
def test_every_fault_comes_before_one_comes_twice(count: int, seed: int) -> None:
    names = [injection.fault for injection in draw_schedule(SHARES, count, seed)]

    assert count == len(names)
    assert {"kill", "stop", "down"} == set(names[:3])


@given(st.integers(0, 200), st.integers())
def test_limits_hold(count: int, seed: int) -> None:
    times = Counter(injection.fault for injection in draw_schedule(SHARES, count, seed))

    assert times["down"] <= 1
    assert 0 == times["never"]


def test_limits_end_the_schedule() -> None:
    assert 3 == len(draw_schedule({"down": Share(limit=3)}, 10, seed=1))


def test_seeds_differ() -> None:
    assert draw_schedule(SHARES, 20, 1) != draw_schedule(SHARES, 20, 2)
    first, *others = draw_schedule(SHARES, 200, 1)

    assert not first.is_overlapping
    assert any(injection.is_overlapping for injection in others)
    assert len({injection.seed for injection in others}) == len(others)
