"""What follows when a batch fails: a smaller one, and in the end a single piece that is at fault."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from stream_infer.errors import EngineError
from stream_infer.flow.pending import Pending, Run

_LEAST_SHARE = 16
_RECOVERY_BATCHES = 64


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How long a piece that fails alone is tried again.

    Until it has had `max_attempts` and its request's deadline has passed, whichever is later. The
    pauses between attempts double from `pause` to `max_pause` seconds, because what fails alone may
    be killing the replica that others need. An error that is not retriable is final at once: the
    model would raise again.
    """

    max_attempts: int = 3
    pause: float = 0.05
    max_pause: float = 10.0

    def given_up(self, item: Pending, error: EngineError, now: float) -> list[Run]:
        """Return the requests for which a piece that failed alone has failed for good.

        Each counts the attempts since it joined, so a late comer pays for nobody else's.
        """
        return [
            run
            for run, earlier in item.waiters.items()
            if not error.retriable
            or (item.attempts - earlier >= self.max_attempts and run.request.deadline <= now)
        ]

    def next_attempt(self, item: Pending, now: float) -> float:
        """Return when to try the piece again: after a pause, but not past its last deadline."""
        until = now + min(self.pause * 2.0 ** min(item.attempts - 1, 30), self.max_pause)
        last = max((run.request.deadline for run in item.waiters), default=now)
        return min(until, last) if last > now else until


def halves(items: Sequence[Pending]) -> tuple[tuple[Pending, ...], tuple[Pending, ...]]:
    """Return both halves of a failed batch of two or more, to be run one after the other."""
    middle = len(items) // 2
    return tuple(items[:middle]), tuple(items[middle:])


class TokenBudget:
    """The tokens a batch of a lane may hold: less after a retriable failure, slowly more again."""

    __slots__ = ("_limit", "current")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self.current = limit

    def shrink(self, tokens: int) -> None:
        """Halve the budget after a batch of so many tokens failed, to a sixteenth of the limit at least."""
        self.current = max(min(self.current, tokens) // 2, self._limit // _LEAST_SHARE, 1)

    def recover(self) -> None:
        """Grow after a batch that passed: from least to full takes about 60 batches."""
        self.current = min(self._limit, self.current + max(self._limit // _RECOVERY_BATCHES, 1))
