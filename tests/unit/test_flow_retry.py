"""How long a piece is tried again, and what failures do to a lane's budget."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream_infer.errors import ModelFailedError, ReplicaDiedError
from stream_infer.flow.pending import Pending, Run, StreamPlan
from stream_infer.flow.retry import RetryPolicy, TokenBudget, halves
from stream_infer.schemas import ClassifyBody, Output, Recipe, Record, Request, Work

PLAN = StreamPlan("m", 1.0)
POLICY = RetryPolicy(max_attempts=3, pause=0.1, max_pause=1.0)
DIED = ReplicaDiedError("signal 9")


def idle_recipe() -> Recipe:
    outputs: list[Output] = list((yield ()))
    return {"outputs": outputs}


def run_until(deadline: float) -> Run:
    record = Record("requests", 0, 0, 0, None, b"")
    return Run(Request("id", "s", ClassifyBody("x"), record, 0.0, deadline), idle_recipe(), PLAN)


def piece_for(*deadlines: float, attempts: int) -> Pending:
    item = Pending(b"", Work("m", ""), 0.0)
    item.attempts = attempts
    item.waiters = dict.fromkeys(map(run_until, deadlines), 0)
    return item


@pytest.mark.parametrize(
    ("attempts", "now", "given_up"), [(2, 5.0, False), (3, 0.5, False), (3, 1.0, True), (9, 0.5, False)]
)
def test_retries_end_at_the_deadline_or_the_last_attempt_whichever_is_later(
    attempts: int,
    now: float,
    given_up: bool,  # noqa: FBT001 - a parameter of the test
) -> None:
    item = piece_for(1.0, attempts=attempts)
    assert given_up == bool(POLICY.given_up(item, DIED, now))


def test_an_error_that_would_come_again_is_final() -> None:
    item = piece_for(100.0, attempts=1)
    assert list(item.waiters) == POLICY.given_up(item, ModelFailedError("shape"), 0.0)


def test_a_request_counts_the_attempts_since_it_joined() -> None:
    item = piece_for(1.0, attempts=3)
    item.waiters[newcomer := run_until(1.0)] = 2
    assert newcomer not in POLICY.given_up(item, DIED, 9.0)
    item.attempts = 5
    assert newcomer in POLICY.given_up(item, DIED, 9.0)


def test_pauses_double_up_to_their_limit() -> None:
    pauses = [POLICY.next_attempt(piece_for(100.0, attempts=n), 10.0) - 10.0 for n in (1, 2, 3, 4, 5, 99)]
    assert pytest.approx([0.1, 0.2, 0.4, 0.8, 1.0, 1.0]) == pauses


def test_a_pause_ends_at_the_last_deadline() -> None:
    assert 10.05 == POLICY.next_attempt(piece_for(10.01, 10.05, attempts=1), 10.0)
    assert pytest.approx(11.1) == POLICY.next_attempt(piece_for(10.05, attempts=1), 11.0)


def test_the_budget_shrinks_at_once_and_recovers_slowly() -> None:
    budget = TokenBudget(1024)
    budget.shrink(1000)
    assert 500 == budget.current
    for _ in range(10):
        budget.recover()
    assert 500 < budget.current < 1024
    for _ in range(50):
        budget.recover()
    assert 1024 == budget.current


@given(limit=st.integers(1, 10_000), failures=st.lists(st.integers(1, 20_000), max_size=40))
def test_the_budget_stays_within_its_bounds(limit: int, failures: list[int]) -> None:
    budget = TokenBudget(limit)
    for tokens in failures:
        budget.shrink(tokens)
        assert max(1, limit // 16) <= budget.current <= limit
        budget.recover()
        assert budget.current <= limit


@given(count=st.integers(2, 100))
def test_halves_hold_everything_and_are_smaller(count: int) -> None:
    items = [piece_for(attempts=0) for _ in range(count)]
    first, second = halves(items)
    assert items == [*first, *second]
    assert 0 < len(first) <= len(second) < count
