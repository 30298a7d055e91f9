"""How long what leaves a lane takes to be committed, learned from what was."""

from __future__ import annotations

_MEAN_STEP = 0.125
_DEVIATION_STEP = 0.25
_DEVIATIONS = 4


class CommitDelay:
    """A running estimate of the seconds from when a batch leaves until its outcomes are committed.

    Mean and mean deviation with exponential forgetting, as retransmission timers are set by (Jacobson,
    "Congestion Avoidance and Control", 1988; the weights are those of RFC 6298).
    """

    __slots__ = ("_deviation", "_mean")

    def __init__(self) -> None:
        self._mean = 0.0
        self._deviation = 0.0

    @property
    def likely(self) -> float:
        """Seconds within which nearly all is committed; 0 until something was."""
        return self._mean + _DEVIATIONS * self._deviation

    def observe(self, seconds: float) -> None:
        """Learn from outcomes that were committed so long after their batch had left."""
        if not self._mean:
            self._mean, self._deviation = seconds, seconds / 2
            return
        self._deviation += (abs(seconds - self._mean) - self._deviation) * _DEVIATION_STEP
        self._mean += (seconds - self._mean) * _MEAN_STEP
