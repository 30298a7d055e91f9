"""A stream with topics of its own, the load on it, and what came of that."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

import msgpack

from stream_infer.bus.batches import OutRecord
from stream_infer.bus.connection import Connection
from stream_infer.bus.follower import TopicFollower
from stream_infer.bus.publisher import Publisher
from tests.broker.audit import Verdict, audit

PATIENCE = 120.0
KEYS = 24
CHUNK = 40


@dataclass(frozen=True, slots=True)
class Lane:
    """One stream's topics and the settings of the workers that serve it."""

    connection: Connection
    input: str
    output: str
    dead_letters: str
    settings: str

    @property
    def outputs(self) -> list[str]:
        """Where outcomes appear."""
        return [self.output, self.dead_letters]

    async def audit(self) -> Verdict:
        """Judge all that went in and came out."""
        return await audit(self.connection, self.input, self.outputs)


def texts(count: int, seed: int = 0) -> list[tuple[bytes, str]]:
    """Return keys and texts, the same for the same seed."""
    draw = random.Random(seed)
    return [(b"key-%d" % draw.randrange(KEYS), f"text {n} " + "x" * draw.randrange(60)) for n in range(count)]


def requests(topic: str, given: Sequence[tuple[bytes, str]]) -> list[OutRecord]:
    """Return requests as a producer writes them."""
    return [OutRecord(topic, key, msgpack.packb({"text": text})) for key, text in given]


class Outcomes:
    """Counts the outcomes of a lane as they are committed, and can be waited on."""

    def __init__(self) -> None:
        self.count = 0
        self._changed = asyncio.Event()

    async def reach(self, count: int) -> None:
        """Return once so many outcomes are committed."""
        async with asyncio.timeout(PATIENCE):
            while self.count < count:
                self._changed.clear()
                await self._changed.wait()

    async def follow(self, follower: TopicFollower) -> None:
        """Count what comes, until cancelled."""
        async for records in follower:
            self.count += len(records)
            self._changed.set()


@asynccontextmanager
async def watched(lane: Lane) -> AsyncIterator[Outcomes]:
    """Count the lane's outcomes while the context lasts."""
    outcomes = Outcomes()
    async with TopicFollower(lane.connection, lane.outputs) as follower:
        task = asyncio.create_task(outcomes.follow(follower))
        try:
            yield outcomes
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


async def feed(lane: Lane, given: Sequence[tuple[bytes, str]], outcomes: Outcomes, ahead: int) -> None:
    """Write the requests in chunks, never more than `ahead` of what has come out: a steady load."""
    async with Publisher(lane.connection) as publisher:
        for start in range(0, len(given), CHUNK):
            await publisher.publish(requests(lane.input, given[start : start + CHUNK]))
            await outcomes.reach(start + CHUNK - ahead)


async def feed_until(lane: Lane, done: asyncio.Event, outcomes: Outcomes, ahead: int) -> int:
    """Keep the lane under a steady load until `done`; return how many requests were written."""
    sent = 0
    async with Publisher(lane.connection) as publisher:
        while not done.is_set():
            await publisher.publish(requests(lane.input, texts(CHUNK, seed=sent)))
            sent += CHUNK
            await outcomes.reach(sent - ahead)
    return sent
