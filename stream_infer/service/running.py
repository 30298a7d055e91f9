"""Keeping replicas busy: which batch each runs, and when it is given the next."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from time import monotonic
from typing import Protocol

import structlog

from stream_infer.counting import ModelMetrics
from stream_infer.engine.replica import IN_HAND
from stream_infer.errors import EngineError
from stream_infer.flow.pending import Batch
from stream_infer.flow.processor import Processor
from stream_infer.schemas import Output, Tokens

log = structlog.get_logger(__name__)

LEAST_LEAD = 0.005
LEAD_SHARE = 0.1
"""How early a busy replica is given its next batch: so many seconds, or so much of the running batch, before
that is predicted to end. Earlier, and what arrives meanwhile would wait behind a batch that need not have
left yet."""
BUDGET_SHARE = 0.75
"""Of the shortest latency budget: a batch predicted to take longer is not given early, so that what arrives
just after it has left still has a quarter of its budget to run in."""


class Runner(Protocol):
    """What runs batches: a replica, or its double."""

    async def run(
        self,
        model: str,
        batch: Sequence[Tokens],
        options: Sequence[str],
        *,
        expected: float,
        threads: int | None = None,
    ) -> list[Output]:
        """Return the outputs of a batch once those before it have run.

        Raises:
            EngineError: there are none.
        """
        ...


class InHand:
    """What one replica has in hand: the batch that it runs, and perhaps the next."""

    def __init__(self, replica: Runner) -> None:
        self.replica = replica
        self.began = 0.0
        """When the batch that it runs began to run, or the last one ended."""
        self._batches: list[Batch] = []

    @property
    def is_idle(self) -> bool:
        """Whether the replica has nothing to run."""
        return not self._batches

    @property
    def wants_next(self) -> float:
        """When a busy replica should get its next batch, for it not to wait and the batch not for long."""
        expected = self._batches[0].expected
        return self.began + expected - max(LEAST_LEAD, expected * LEAD_SHARE)

    def take(self, batch: Batch, now: float) -> None:
        """Note a batch that the replica is given."""
        if self.is_idle:
            self.began = now
        self._batches.append(batch)

    def end(self, batch: Batch, now: float) -> float:
        """Note that a batch has ended, and return the seconds that it ran."""
        took = now - self.began
        self._batches.remove(batch)
        self.began = now
        return took


class BatchRunner:
    """Gives replicas the batches that should leave, and the processor what became of them.

    `threads` are what models run best with, where that is known; `budget` is the shortest latency budget,
    in seconds; `flush` is called when there may be outcomes.
    """

    def __init__(
        self,
        processor: Processor,
        replicas: Sequence[Runner],
        metrics: Mapping[str, ModelMetrics],
        *,
        threads: Mapping[str, int],
        budget: float,
        flush: Callable[[], None],
    ) -> None:
        self._processor = processor
        self._in_hand = [InHand(replica) for replica in replicas]
        self._metrics = metrics
        self._threads = threads
        self._longest_early = budget * BUDGET_SHARE
        self._flush = flush
        self._changed = asyncio.Event()

    async def run(self) -> None:
        """Work until cancelled."""
        async with asyncio.TaskGroup() as group:
            for in_hand in self._in_hand:
                for _ in range(IN_HAND):
                    group.create_task(self._serve(in_hand))

    def wake(self) -> None:
        """Look for batches: something came to a lane."""
        self._changed.set()

    async def _serve(self, in_hand: InHand) -> None:
        """Run one batch after the other; while one runs, the replica's other task brings the next."""
        while True:
            batch = self._next_batch(in_hand, monotonic())
            if batch is None:
                self._changed.clear()
                await self._until_changed(in_hand)
            else:
                await self._run_batch(in_hand, batch)

    def _next_batch(self, in_hand: InHand, now: float) -> Batch | None:
        """Return what an idle replica is to run, or what a busy one is to have in hand.

        An idle one takes whatever there is. A busy one takes only what must leave now in any case, and
        nothing while another is idle.
        """
        if self._processor.shed(now):
            self._flush()
        if in_hand.is_idle:
            return self._processor.next_batch(now, idle=True)
        if now < in_hand.wants_next or any(other.is_idle for other in self._in_hand):
            return None
        return self._processor.next_batch(now, idle=False, within=self._longest_early)

    async def _until_changed(self, in_hand: InHand) -> None:
        """Return when there may be a batch: something came, has rested, or a busy replica wants its next."""
        now = monotonic()
        wake = self._wake(in_hand, now)
        try:
            async with asyncio.timeout(None if wake is None else max(wake - now, 0.0)):
                await self._changed.wait()
        except TimeoutError:
            return

    def _wake(self, in_hand: InHand, now: float) -> float | None:
        """Return when to look for a batch again though nothing has changed; None if there is no need."""
        if in_hand.is_idle:
            return self._processor.next_wake(now)
        return in_hand.wants_next if in_hand.wants_next > now else None

    async def _run_batch(self, in_hand: InHand, batch: Batch) -> None:
        metrics = self._metrics[batch.lane]
        metrics.engine_tokens.inc(batch.tokens)
        in_hand.take(batch, monotonic())
        try:
            outputs = await in_hand.replica.run(
                batch.lane,
                batch.inputs,
                batch.options,
                expected=batch.expected,
                threads=self._threads.get(batch.lane),
            )
        except EngineError as error:
            log.warning("batch_failed", model=batch.lane, items=len(batch.items), reason=error.reason)
            now = monotonic()
            in_hand.end(batch, now)
            self._processor.batch_failed(batch, error, now)
        else:
            now = monotonic()
            took = in_hand.end(batch, now)
            metrics.count_batch(len(batch.items), batch.useful_tokens, took)
            self._processor.batch_done(batch, outputs, now, took)
        self._changed.set()
        self._flush()
