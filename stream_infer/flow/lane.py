"""The queue of one model: what waits, what is most urgent, and what would leave together."""

from __future__ import annotations

import heapq
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from operator import attrgetter

from stream_infer.flow.cost import CostModel
from stream_infer.flow.deadlines import DeadlineQueue
from stream_infer.flow.delay import CommitDelay
from stream_infer.flow.pending import Batch, Pending, Place
from stream_infer.flow.retry import TokenBudget

_MIN_WINDOW = 256
_PRESSING_BATCHES = 3
_NEARLY_FULL = 0.98
_NEVER = float("inf")


@dataclass(frozen=True, slots=True)
class LaneLimits:
    """The most a batch may hold.

    `max_tokens` limits the sum of lengths, or, when the model pads, the longest length times the
    number of pieces. A single piece over it still runs, alone.
    """

    max_tokens: int
    max_items: int
    padded: bool = False


class _Filling:
    """A batch being filled up to a limit of tokens."""

    __slots__ = ("_limits", "_longest", "_total", "items", "max_tokens")

    def __init__(self, limits: LaneLimits, max_tokens: int) -> None:
        self._limits = limits
        self._longest = 0
        self._total = 0
        self.max_tokens = max_tokens
        self.items: list[Pending] = []

    @property
    def tokens(self) -> int:
        """What the batch costs so far."""
        return self._longest * len(self.items) if self._limits.padded else self._total

    @property
    def is_full(self) -> bool:
        """Whether looking for a piece that still fits is not worth while."""
        return len(self.items) >= self._limits.max_items or self.tokens >= self.max_tokens * _NEARLY_FULL

    def add_all(self, items: Iterable[Pending]) -> None:
        """Take the pieces that fit, in this order, until the batch is full."""
        for item in items:
            if self.add(item) and self.is_full:
                return

    def add(self, item: Pending) -> bool:
        """Take the piece if it fits; the first one always does."""
        count = len(self.items) + 1
        total = self._total + item.size
        longest = max(self._longest, item.size)
        tokens = longest * count if self._limits.padded else total
        if count > 1 and (count > self._limits.max_items or tokens > self.max_tokens):
            return False
        self.items.append(item)
        self._total = total
        self._longest = longest
        return True


class Lane:
    """Pieces waiting for one model.

    A piece is pressing if it might miss its deadline by waiting for another batch, and overdue once
    it cannot be on time whatever is done. Pressing ones go first, but while others are overdue the
    two take turns: a backlog neither starves live traffic nor is starved by it. The batch is filled
    with what is closest in length to its first piece, because mixed lengths run slower. Parts of
    failed batches go before everything, each by itself.
    """

    def __init__(self, name: str, limits: LaneLimits, cost: CostModel | None = None) -> None:
        self.name = name
        self.cost = cost or CostModel()
        self.delay = CommitDelay()
        self.budget = TokenBudget(limits.max_tokens)
        self.served = -_NEVER
        """When a batch last left."""
        self.items = 0
        """How many pieces are queued; those set apart do not count."""
        self.tokens = 0
        """How many tokens are queued."""
        self._limits = limits
        self._window = max(_MIN_WINDOW, 4 * limits.max_items)
        self._now = -_NEVER
        self._pressing_went_first = False
        self._waiting = DeadlineQueue()
        self._overdue = DeadlineQueue()
        self._parts: deque[list[Pending]] = deque()
        self._resting: list[tuple[float, int, Pending]] = []
        self._rested = 0

    def add(self, item: Pending) -> None:
        """Queue a tokenised piece."""
        item.place = Place.QUEUED
        self.items += 1
        self.tokens += item.size
        self._waiting.add(item)

    def hopeless(self, now: float, may_shed: Callable[[Pending], bool]) -> list[Pending]:
        """Return the queued pieces that would be committed too late though they left now, most urgent first.

        None that the next batch can hold are among them: to give those up would save nobody time.
        """
        spare = self.tokens - self.budget.current
        horizon = now + self.delay.likely
        found: list[Pending] = []
        for item in self._waiting:
            if item.deadline >= horizon or spare <= 0:
                break
            if may_shed(item):
                spare -= item.size
                found.append(item)
        return found

    def set_deadline(self, item: Pending, deadline: float) -> None:
        """Move the piece's deadline."""
        if deadline == item.deadline:
            return
        queue = self._queue_of(item)
        if queue is not None:
            queue.remove(item)
        item.deadline = deadline
        if queue is not None:
            queue.add(item)

    def hasten(self, item: Pending, deadline: float) -> None:
        """Move the piece's deadline forward; does nothing when it is no earlier."""
        self.set_deadline(item, min(deadline, item.deadline))

    def discard(self, item: Pending) -> None:
        """Forget a piece that nobody waits for any more, wherever it is but in a batch."""
        queue = self._queue_of(item)
        if queue is not None:
            queue.remove(item)
            self._leave(item)
        if item.place is not Place.RUNNING:
            item.place = Place.GONE

    def add_parts(self, parts: Iterable[Sequence[Pending]]) -> None:
        """Set the parts of a failed batch apart; they are the next to run, in this order."""
        kept = [list(part) for part in parts]
        for part in kept:
            for item in part:
                item.place = Place.APART
        self._parts.extendleft(reversed(kept))

    def rest(self, item: Pending, until: float) -> None:
        """Set a piece apart; it runs alone, not before `until`."""
        item.place = Place.APART
        self._rested += 1
        heapq.heappush(self._resting, (until, self._rested, item))

    def settle(self, now: float) -> None:
        """Bring the queue up to `now`; what is asked of it next is true for this time.

        1. Pieces that have rested become parts. 2. Forgotten parts are dropped. 3. Pieces that
        cannot be on time any more become overdue.
        """
        self._now = now
        while self._resting and self._resting[0][0] <= now:
            self._parts.append([heapq.heappop(self._resting)[2]])
        while self._parts and all(item.place is Place.GONE for item in self._parts[0]):
            self._parts.popleft()
        while self._waiting and self._cannot_be_on_time(self._waiting.first):
            self._overdue.add(self._waiting.pop())

    @property
    def is_empty(self) -> bool:
        """Whether nothing could run now; pieces that rest do not count."""
        return not (self._waiting or self._overdue or self._parts)

    @property
    def is_full(self) -> bool:
        """Whether waiting could not make the next batch any larger."""
        return bool(self._parts) or self.items >= self._limits.max_items or self.tokens >= self.budget.current

    @property
    def is_overdue(self) -> bool:
        """Whether a piece waits that cannot be on time any more."""
        return bool(self._overdue) or self._part_deadline < self._now + self.expected

    @property
    def expected(self) -> float:
        """The predicted seconds of the next batch."""
        if self._parts:
            return self.cost.predict(sum(item.size for item in self._parts[0]))
        return self.cost.predict(min(self.tokens, self.budget.current))

    @property
    def due(self) -> float:
        """When the next batch must leave for its most urgent piece to be on time; infinite if none can."""
        expected = self.expected
        deadline = self._waiting.first.deadline if self._waiting else _NEVER
        if self._part_deadline >= self._now + expected:
            deadline = min(deadline, self._part_deadline)
        return deadline - expected

    @property
    def _part_deadline(self) -> float:
        return min(item.deadline for item in self._parts[0]) if self._parts else _NEVER

    @property
    def wakes(self) -> float:
        """When the first piece at rest may run again; infinite when none rests."""
        return self._resting[0][0] if self._resting else _NEVER

    def take(self, now: float) -> Batch:
        """Return the next batch of a lane that is settled and not empty."""
        filling = self._next_part() if self._parts else self._next_queued(now)
        for item in filling.items:
            item.place = Place.RUNNING
        self.served = now
        items = tuple(sorted(filling.items, key=attrgetter("size")))
        return Batch(self.name, items, filling.tokens, self.cost.predict(filling.tokens), now)

    def _next_part(self) -> _Filling:
        """Return the first part; what a shrunken budget does not hold becomes a part of its own."""
        filling = _Filling(self._limits, self.budget.current)
        part = [item for item in self._parts.popleft() if item.place is not Place.GONE]
        rest = [item for item in part if not filling.add(item)]
        if rest:
            self._parts.appendleft(rest)
        return filling

    def _next_queued(self, now: float) -> _Filling:
        waiting = self._waiting.window(self._window)
        overdue = self._overdue.window(self._window)
        filling = _Filling(self._limits, self._room(waiting, now))
        filling.add_all(self._candidates(waiting, overdue, now))
        self._waiting.remove_from_window(filling.items, len(waiting))
        self._overdue.remove_from_window(filling.items, len(overdue))
        for item in filling.items:
            self._leave(item)
        return filling

    def _candidates(self, waiting: list[Pending], overdue: list[Pending], now: float) -> list[Pending]:
        """Return the pieces in the order in which they may board."""
        horizon = now + _PRESSING_BATCHES * self.cost.predict(self.budget.current)
        count = bisect_right(waiting, horizon, key=attrgetter("deadline"))
        pressing, rest = waiting[:count], waiting[count:]
        overdue = _by_likeness(overdue, overdue)
        is_overdue_turn = self._pressing_went_first
        self._pressing_went_first = bool(pressing and overdue) and not is_overdue_turn
        first = overdue + pressing if is_overdue_turn else pressing + overdue
        return first + _by_likeness(rest, first or rest)

    def _room(self, waiting: Sequence[Pending], now: float) -> int:
        """Return the tokens that a batch may hold for its most urgent piece to be on time.

        A backlog is not cut below half a batch for that: small batches would make it longer, and
        save one piece at the price of the next.
        """
        budget = self.budget.current
        if not waiting:
            return budget
        room = min(self.cost.tokens_within(waiting[0].deadline - now), budget)
        return budget if self.tokens > budget and room < budget // 2 else room

    def _leave(self, item: Pending) -> None:
        self.items -= 1
        self.tokens -= item.size

    def _cannot_be_on_time(self, item: Pending) -> bool:
        return item.deadline < self._now + self.cost.predict(item.size)

    def _queue_of(self, item: Pending) -> DeadlineQueue | None:
        if item.place is not Place.QUEUED:
            return None
        return self._waiting if item in self._waiting else self._overdue


def _by_likeness(items: Sequence[Pending], to: Sequence[Pending]) -> list[Pending]:
    """Return the pieces, those closest in length to the first of `to` first; equals keep their order."""
    size = to[0].size if to else 0
    return sorted(items, key=lambda item: abs(item.size - size))
