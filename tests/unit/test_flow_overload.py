"""More work than an engine can do: what streams that shed admit is on time, and the engine stays busy."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

import numpy as np
import pytest

from stream_infer.errors import LateError
from stream_infer.flow.cost import CostModel
from stream_infer.flow.lane import Lane, LaneLimits
from stream_infer.flow.pending import Batch, StreamPlan
from stream_infer.flow.processor import Processor
from stream_infer.schemas import (
    ClassifyBody,
    Outcome,
    Output,
    Recipe,
    Record,
    Request,
    Result,
    Tokens,
    Work,
)

BUDGET = 0.5
OVERHEAD, PER_TOKEN, COMMIT = 0.005, 0.0002, 0.02
"""Seconds of a batch, of each of its tokens, and of a transaction; they vary by a fifth and more."""
MEAN_TOKENS = 40
SECONDS = 15.0
CAPACITY = 1 / (MEAN_TOKENS * PER_TOKEN)
"""Events that the engine can run in a second."""


class NoCache:
    """Forgets at once."""

    def get(self, key: bytes, /) -> None:
        """Nothing is there."""

    def put(self, key: bytes, output: Output, /) -> None:
        """Forget it."""


def recipe(text: str) -> Recipe:
    (output,) = yield (Work("m", text),)
    return {"text": output.text}


def arrivals(factor: float, draw: random.Random) -> list[tuple[float, int]]:
    """When events arrive and how many tokens they have, so many times what the engine can do."""
    found, now = [], 0.0
    while (now := now + draw.expovariate(factor * CAPACITY)) < SECONDS:
        found.append((now, draw.randrange(5, 2 * MEAN_TOKENS - 5)))
    return found


@dataclass
class World:
    """One processor, an engine that runs a batch at a time, and a bus that commits what comes of it."""

    factor: float
    sheds: bool
    draw: random.Random = field(default_factory=lambda: random.Random(3))
    committed: list[tuple[float, Outcome]] = field(default_factory=list)
    now: float = 0.0
    _running: tuple[float, float, Batch] | None = None
    _publishing: list[tuple[float, list[Outcome]]] = field(default_factory=list)

    def __post_init__(self) -> None:
        lane = Lane("m", LaneLimits(1024, 64), CostModel(OVERHEAD, PER_TOKEN))
        plans = {"s": StreamPlan("m", BUDGET, sheds_late=self.sheds)}
        self.processor = Processor(plans, [lane], NoCache(), lambda work: work.text.encode())
        self.coming = arrivals(self.factor, self.draw)
        self._deadlines = [at + BUDGET for at, _ in self.coming]
        self._arrived = 0

    def run(self) -> None:
        """Let time pass from event to event until nothing is left."""
        while moments := list(self._moments()):
            self.now = min(moments)
            self._arrive()
            self._end_batch()
            self._start_batch()
            self._publish()

    def results(self) -> list[tuple[float, Outcome]]:
        """Return what came out well, and when it was committed."""
        return [(at, outcome) for at, outcome in self.committed if isinstance(outcome, Result)]

    def share_on_time(self) -> float:
        """Return how many of the results were committed by their deadlines."""
        results = self.results()
        on_time = sum(at <= self._deadlines[outcome.record.offset] for at, outcome in results)
        return on_time / len(results)

    def _moments(self) -> list[float]:
        moments = [self.coming[self._arrived][0]] if self._arrived < len(self.coming) else []
        if self._running:
            moments.append(self._running[1])
        if self._publishing:
            moments.append(self._publishing[0][0])
        return moments

    def _arrive(self) -> None:
        while self._arrived < len(self.coming) and self.coming[self._arrived][0] <= self.now:
            offset, (at, tokens) = self._arrived, self.coming[self._arrived]
            record = Record("requests", 0, offset, 0, None, b"")
            one = Request(record.position, "s", ClassifyBody("x"), record, at, self._deadlines[offset])
            self.processor.submit(one, recipe(f"{offset}/{tokens}"), self.now)
            self._arrived += 1
        for unencoded in self.processor.take_unencoded():
            sizes = [int(work.text.partition("/")[2]) for work in unencoded.works]
            self.processor.encoded(unencoded, [Tokens(np.zeros(n, np.int32)) for n in sizes], self.now)

    def _end_batch(self) -> None:
        if self._running and self._running[1] <= self.now:
            began, _, batch = self._running
            outputs = [Output(text=item.work.text) for item in batch.items]
            self.processor.batch_done(batch, outputs, self.now, self.now - began)
            self._running = None

    def _start_batch(self) -> None:
        if self._running:
            return
        self.processor.shed(self.now)
        if batch := self.processor.next_batch(self.now, idle=True):
            took = (OVERHEAD + PER_TOKEN * batch.tokens) * self.draw.uniform(0.9, 1.2)
            self._running = (self.now, self.now + took, batch)

    def _publish(self) -> None:
        if outcomes := self.processor.take_outcomes():
            self._publishing.append((self.now + COMMIT * self.draw.uniform(0.7, 1.6), outcomes))
        while self._publishing and self._publishing[0][0] <= self.now:
            _, outcomes = self._publishing.pop(0)
            self.committed += [(self.now, outcome) for outcome in outcomes]
            self.processor.committed(outcomes, self.now)


@pytest.mark.parametrize("factor", [1.2, 2.0, 5.0, 20.0])
def test_what_is_admitted_under_overload_is_on_time_and_the_engine_stays_busy(factor: float) -> None:
    world = World(factor, sheds=True)
    world.run()

    assert len(world.coming) == len(world.committed)
    assert world.share_on_time() >= 0.95
    assert len(world.results()) >= 0.9 * CAPACITY * SECONDS
    letters = [outcome for _, outcome in world.committed if not isinstance(outcome, Result)]
    assert {LateError.reason} == {letter.reason for letter in letters}


def test_nothing_is_shed_below_the_maximum_rate() -> None:
    world = World(0.7, sheds=True)
    world.run()

    assert len(world.coming) == len(world.results())
    assert world.share_on_time() >= 0.99


def test_a_stream_that_does_not_shed_has_all_its_results_late() -> None:
    """What the first test shows is not what would happen anyway."""
    world = World(5.0, sheds=False)
    world.run()

    assert len(world.coming) == len(world.results())
    assert world.share_on_time() < 0.1
