"""The worker as a process, on a real broker: what goes in comes out, once, in order, whatever happens."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

import msgpack
import pytest

from loadgen.kafka.brokers import Broker
from stream_infer.web.probe import read_metrics
from tests.broker.lanes import PATIENCE, Lane, feed, feed_until, texts, watched
from tests.broker.probes import read_committed
from tests.broker.service_process import ServiceProcess

KILLS = 10


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


async def test_a_worker_that_still_starts_stops_at_once(lane: Lane, tmp_path: Path) -> None:
    """Its model would load for an hour; nothing was taken in, so nothing is to be drained."""
    worker = ServiceProcess(lane.settings.replace(":scorer", ":never"), tmp_path)
    await worker.start()
    async with asyncio.timeout(PATIENCE):
        while not await read_metrics(worker.url):  # noqa: ASYNC110 - it is another process
            await asyncio.sleep(0.05)

    assert 0 == await worker.stop()


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
