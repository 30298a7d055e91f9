"""The worker as a process, on a real broker: what goes in comes out, once, in order, whatever happens."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import msgpack
import pytest

from stream_infer.bus.batches import OutRecord
from stream_infer.bus.connection import Connection
from stream_infer.bus.follower import TopicFollower
from stream_infer.bus.publisher import Publisher
from tests.broker.audit import Verdict, audit
from tests.broker.conftest import Broker, MakeTopic
from tests.broker.probes import read_committed
from tests.broker.service_process import SCORING_STREAM, ServiceProcess

PATIENCE = 120.0
KEYS = 24
KILLS = 10
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


@pytest.fixture
async def lane(connection: Connection, make_topic: MakeTopic, group: str) -> Lane:
    """A stream of its own for each test: four partitions in and out."""
    names = {name: await make_topic(4) for name in ("input", "output", "dead_letters")}
    servers = connection.bootstrap_servers
    settings = SCORING_STREAM.format(group=group, bootstrap_servers=servers, **names)
    return Lane(connection, **names, settings=settings)


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


async def test_every_record_has_one_result_in_order(lane: Lane, tmp_path: Path) -> None:
    given = texts(1_000)
    async with watched(lane) as outcomes, ServiceProcess(lane.settings, tmp_path) as worker:
        await feed(lane, given, outcomes, ahead=10_000)
        await outcomes.reach(len(given))
        assert 0 == await worker.stop()

    assert (await lane.audit()).is_clean
    assert len(given) == len(await read_committed(lane.connection, lane.output))


async def test_kill_at_random_moments_loses_and_repeats_nothing(lane: Lane, tmp_path: Path) -> None:
    given = texts(KILLS * 160 + 400, seed=1)
    moments = random.Random(2)
    async with watched(lane) as outcomes, asyncio.TaskGroup() as tasks:
        tasks.create_task(feed(lane, given, outcomes, ahead=400))
        async with ServiceProcess(lane.settings, tmp_path, instance_id="only") as worker:
            for number in range(KILLS):
                await outcomes.reach(number * 160 + moments.randrange(160))
                await worker.kill()
                await worker.start()
            await outcomes.reach(len(given))

    assert (await lane.audit()).is_clean


async def feed_until(lane: Lane, done: asyncio.Event, outcomes: Outcomes, ahead: int) -> int:
    """Keep the lane under a steady load until `done`; return how many requests were written."""
    sent = 0
    async with Publisher(lane.connection) as publisher:
        while not done.is_set():
            await publisher.publish(requests(lane.input, texts(CHUNK, seed=sent)))
            sent += CHUNK
            await outcomes.reach(sent - ahead)
    return sent


async def test_second_worker_joins_and_leaves(lane: Lane, tmp_path: Path) -> None:
    done = asyncio.Event()
    async with watched(lane) as outcomes, asyncio.TaskGroup() as tasks:
        feeding = tasks.create_task(feed_until(lane, done, outcomes, ahead=200))
        async with ServiceProcess(lane.settings, tmp_path, name="first"):
            await outcomes.reach(200)
            async with ServiceProcess(lane.settings, tmp_path, name="second") as second:
                await outcomes.reach(outcomes.count + 400)
                assert 0 == await second.stop()
            await outcomes.reach(outcomes.count + 400)
            done.set()
            await outcomes.reach(await feeding)

    assert (await lane.audit()).is_clean


async def test_broker_restart(lane: Lane, broker: Broker, broker_kind: str, tmp_path: Path) -> None:
    before, after = texts(600, seed=4), texts(600, seed=5)
    async with watched(lane) as outcomes, ServiceProcess(lane.settings, tmp_path):
        await feed(lane, before, outcomes, ahead=200)
        if broker_kind == "embedded":
            # It forgets transactions that are open when it stops, a limit that README states.
            await outcomes.reach(len(before))
        await broker.stop()
        await broker.start()
        await feed(lane, after, outcomes, ahead=200)
        await outcomes.reach(len(before) + len(after))

    assert (await lane.audit()).is_clean


@pytest.mark.parametrize("mark", ["<raise>", "<memory>", "<die>"])
async def test_poison_stays_alone(lane: Lane, tmp_path: Path, mark: str) -> None:
    given = [*texts(63, seed=5), (b"key-0", f"poison {mark}")]
    random.Random(6).shuffle(given)
    async with watched(lane) as outcomes, ServiceProcess(lane.settings, tmp_path):
        await feed(lane, given, outcomes, ahead=10_000)
        await outcomes.reach(len(given))

    assert (await lane.audit()).is_clean
    (letter,) = await read_committed(lane.connection, lane.dead_letters)
    assert msgpack.packb({"text": f"poison {mark}"}) == letter.value
    assert 63 == len(await read_committed(lane.connection, lane.output))
