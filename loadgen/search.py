"""The highest rate that a service carries within its budget: found by bisection, one run a rate."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Final

from loadgen.recorder import Recorder

LATE_SHARE: Final = 0.5
"""A run in which an event left later than this share of the budget says nothing of the service."""
LAG_BUDGETS: Final = 2.0
"""Lag is bounded while no more is under way than comes in so many budgets."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What is looked for, and when to stop: rates are events a second."""

    budget_ms: float
    first_rate: float
    highest_rate: float
    lowest_rate: float = 0.1
    tolerance: float = 0.05
    most_trials: int = 20


@dataclass(frozen=True, slots=True)
class Trial:
    """What came of one rate; it held unless there is a `reason`."""

    rate: float
    outcomes_per_s: float
    p99_ms: float | None
    left_when_sent: int
    reason: str = ""

    @property
    def held(self) -> bool:
        """Whether the service carried the rate."""
        return not self.reason


@dataclass(frozen=True, slots=True)
class Bracket:
    """The highest rate that held and the lowest that did not, as far as they are known."""

    held: float | None = None
    failed: float | None = None

    def after(self, trial: Trial) -> Bracket:
        """Return the bracket that a trial leaves."""
        return replace(self, held=trial.rate) if trial.held else replace(self, failed=trial.rate)

    def next_rate(self, limits: Limits) -> float | None:
        """Return the rate to try next, or None when the answer is known well enough.

        Twice the last rate while all hold, half of it while none does, then the middle between the
        two, by ratio, until they are within the tolerance.
        """
        if self.held is None and self.failed is None:
            return limits.first_rate
        if self.failed is None:
            return self._above(limits)
        if self.held is None:
            return self.failed / 2 if self.failed / 2 >= limits.lowest_rate else None
        is_known = self.failed <= self.held * (1 + limits.tolerance)
        return None if is_known else math.sqrt(self.held * self.failed)

    def _above(self, limits: Limits) -> float | None:
        if self.held is None or self.held >= limits.highest_rate:
            return None
        return min(self.held * 2, limits.highest_rate)


async def search(limits: Limits, attempt: Callable[[float], Awaitable[Trial]]) -> AsyncIterator[Trial]:
    """Give trial after trial until the highest rate that holds is known, or there were enough."""
    bracket = Bracket()
    for _ in range(limits.most_trials):
        rate = bracket.next_rate(limits)
        if rate is None:
            return
        trial = await attempt(rate)
        yield trial
        bracket = bracket.after(trial)


def judge_trial(recorder: Recorder, rate: float, budget_ms: float) -> Trial:
    """Return whether a run held its rate: p99 within the budget, lag bounded, nothing lost.

    Events of a rate that is carried stay for a budget at most, so that no more than `rate` times the
    budget are under way; twice as many, when the last is sent, is a lag that grows.
    """
    p99_ms = recorder.latencies.percentile_ms(99.0)
    seconds = recorder.last_outcome
    return Trial(
        rate=round(rate, 3),
        outcomes_per_s=round(recorder.outcomes / seconds, 1) if seconds else 0.0,
        p99_ms=p99_ms,
        left_when_sent=recorder.left_when_sent,
        reason=_reason(recorder, rate, budget_ms, p99_ms),
    )


def _reason(recorder: Recorder, rate: float, budget_ms: float, p99_ms: float | None) -> str:
    """Return why the rate did not hold, or nothing."""
    if fault := _fault(recorder, budget_ms):
        return fault
    most_left = max(1.0, LAG_BUDGETS * rate * budget_ms / 1_000)
    if p99_ms is None:
        return "no event was due after the warm-up"
    if p99_ms > budget_ms:
        return f"p99 is {p99_ms:.1f} ms"
    if recorder.left_when_sent > most_left:
        return f"{recorder.left_when_sent} events were under way at the end, {most_left:.0f} are bounded"
    return ""


def _fault(recorder: Recorder, budget_ms: float) -> str:
    """Return why a run says nothing of latency, or nothing."""
    if recorder.fault:
        return recorder.fault
    if recorder.failed:
        return f"{recorder.failed} events were not taken by the broker"
    if recorder.send_lag * 1_000 > LATE_SHARE * budget_ms:
        return f"the load generator itself was {recorder.send_lag * 1_000:.0f} ms late"
    return f"{recorder.outstanding} events have no outcome" if recorder.outstanding else ""
