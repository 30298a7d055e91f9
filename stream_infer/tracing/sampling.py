"""Which records are traced: decided once each, when their outcome is known."""

from __future__ import annotations

from dataclasses import dataclass

from stream_infer.schemas import DeadLetter, Outcome
from stream_infer.tracing.context import TraceContext

MAX_KEPT_PER_SECOND = 20
"""Late results and dead letters traced though nobody sampled them: in an overload every result is
late, and tracing them all would add to it."""

_RATIO_BITS = 64


@dataclass(frozen=True, slots=True)
class SamplingPolicy:
    """What is traced: by the parent's word, or by `ratio` without a parent; and the unusual anyway."""

    ratio: float = 1.0
    always_late: bool = True
    always_dead_letters: bool = True


class Sampler:
    """Decides by the policy. Time is an argument, in monotonic seconds."""

    def __init__(self, policy: SamplingPolicy) -> None:
        self._policy = policy
        self._bound = round(policy.ratio * (1 << _RATIO_BITS))
        self._allowance = _Allowance(MAX_KEPT_PER_SECOND)

    def is_sampled(self, outcome: Outcome, parent: TraceContext | None, trace_id: int, now: float) -> bool:
        """Return whether the outcome's record is traced; without a parent, its `trace_id` is random."""
        sampled = parent.is_sampled if parent else trace_id & ((1 << _RATIO_BITS) - 1) < self._bound
        return sampled or (self._is_kept(outcome) and self._allowance.take(now))

    def _is_kept(self, outcome: Outcome) -> bool:
        if isinstance(outcome, DeadLetter):
            return self._policy.always_dead_letters
        return outcome.late and self._policy.always_late


class _Allowance:
    """So many a second, and no more than that at once."""

    def __init__(self, per_second: int) -> None:
        self._per_second = per_second
        self._left = float(per_second)
        self._filled = 0.0

    def take(self, now: float) -> bool:
        """Return whether one more is within it."""
        self._left = min(self._left + (now - self._filled) * self._per_second, self._per_second)
        self._filled = now
        if self._left < 1.0:
            return False
        self._left -= 1.0
        return True
