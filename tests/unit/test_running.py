"""When replicas get their batches: an idle one at once, a busy one just before it would have to wait."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, cast

import pytest

from stream_infer.flow.pending import Batch
from stream_infer.schemas import Output, Tokens
from stream_infer.service import running as module
from stream_infer.service.running import BUDGET_SHARE, LEAST_LEAD, BatchRunner, InHand


def batch(expected: float = 1.0) -> Batch:
    return Batch("m", (), 10, expected, 0.0)


class Replica:
    """Answers when it is told to, in the order in which it was asked."""

    def __init__(self) -> None:
        self.asked: list[float] = []
        self.answers: list[asyncio.Future[list[Output]]] = []

    async def run(
        self,
        model: str,
        batch: Sequence[Tokens],
        options: Sequence[str],
        *,
        expected: float,
        threads: int | None = None,
    ) -> list[Output]:
        """Wait for the answer."""
        del model, batch, options, threads
        self.asked.append(expected)
        self.answers.append(asyncio.get_running_loop().create_future())
        return await self.answers[-1]


class Processor:
    """Has batches, and notes how it is asked for them and how long they took."""

    def __init__(self, *batches: Batch) -> None:
        self.batches = list(batches)
        self.asked: list[tuple[bool, float]] = []
        self.took: list[float] = []
        self.late = 0
        """How often there is something to give up."""

    def shed(self, now: float) -> bool:
        """Give up what is late, if anything is."""
        del now
        self.late -= 1
        return self.late >= 0

    def next_batch(self, now: float, *, idle: bool, within: float = float("inf")) -> Batch | None:
        """Return the next one, if there is one."""
        del now
        self.asked.append((idle, within))
        return self.batches.pop(0) if self.batches else None

    def next_wake(self, now: float) -> None:
        """Nothing rests."""
        del now

    def batch_done(self, batch: Batch, outputs: Sequence[Output], now: float, took: float) -> None:
        """Note the time."""
        del batch, outputs, now
        self.took.append(took)


class Metrics:
    """Counts nothing."""

    engine_tokens = property(lambda self: self)

    def inc(self, tokens: int) -> None:
        """Pass over the tokens of a batch."""

    def count_batch(self, items: int, tokens: int, seconds: float) -> None:
        """Pass over a batch."""


def runner_of(
    processor: Processor, *replicas: Replica, flush: Callable[[], None] = lambda: None
) -> BatchRunner:
    return BatchRunner(
        cast("Any", processor),
        replicas,
        {"m": cast("Any", Metrics())},
        threads={},
        budget=2.0,
        flush=flush,
    )


@pytest.mark.parametrize(("expected", "lead"), [(0.01, LEAST_LEAD), (1.0, 0.1)])
def test_a_busy_replica_wants_its_next_batch_shortly_before_the_end(expected: float, lead: float) -> None:
    in_hand = InHand(Replica())
    in_hand.take(batch(expected), now=5.0)

    assert pytest.approx(5.0 + expected - lead) == in_hand.wants_next


def test_a_batch_that_waited_at_hand_is_timed_from_when_it_ran() -> None:
    """The lane learns from the time, and would take the wait for the batch's own cost."""
    first, second = batch(), batch()
    in_hand = InHand(Replica())
    in_hand.take(first, now=5.0)
    in_hand.take(second, now=5.75)

    assert 1.0 == in_hand.end(first, now=6.0)
    assert 7.0 == pytest.approx(in_hand.wants_next + 0.1)
    assert 0.5 == in_hand.end(second, now=6.5)
    assert in_hand.is_idle


def test_what_is_brought_early_must_leave_anyway_and_be_short() -> None:
    processor = Processor(batch(), batch())
    runner = runner_of(processor, Replica())
    (in_hand,) = runner._in_hand
    first = runner._next_batch(in_hand, 0.0)
    assert first
    in_hand.take(first, 0.0)

    assert runner._next_batch(in_hand, 0.89) is None
    assert 0.9 == runner._wake(in_hand, 0.89)
    assert runner._next_batch(in_hand, 0.91)
    assert [(True, float("inf")), (False, 2.0 * BUDGET_SHARE)] == processor.asked
    assert runner._wake(in_hand, 0.91) is None


def test_a_busy_replica_takes_nothing_while_another_is_idle() -> None:
    processor = Processor(batch(), batch())
    runner = runner_of(processor, Replica(), Replica())
    busy, idle = runner._in_hand
    busy.take(batch(), 0.0)

    assert runner._next_batch(busy, 0.95) is None
    assert runner._next_batch(idle, 0.95)


async def test_a_replica_has_two_batches_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """The third is brought when the first has ended; the time of each counts from the end of the other."""
    clock = iter(float(number) for number in range(1_000))
    monkeypatch.setattr(module, "monotonic", lambda: next(clock))
    replica, processor = Replica(), Processor(batch(0.01), batch(0.02), batch(0.03))
    working = asyncio.create_task(runner_of(processor, replica).run())
    try:
        await _settled()
        assert [0.01, 0.02] == replica.asked
        replica.answers[0].set_result([])
        await _settled()
        assert [0.01, 0.02, 0.03] == replica.asked
        assert 1 == len(processor.took)
    finally:
        working.cancel()
        await asyncio.gather(working, return_exceptions=True)


async def _settled() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


def test_what_was_given_up_goes_out_though_no_batch_runs() -> None:
    """It was the last that waited, so nothing else would ever hand it out."""
    processor, flushed = Processor(), []
    processor.late = 1
    runner = runner_of(processor, replica := Replica(), flush=lambda: flushed.append(True))

    found = [runner._next_batch(InHand(replica), 0.0) for _ in range(2)]

    assert [None, None] == found
    assert [True] == flushed
