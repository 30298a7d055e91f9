"""More than a worker can do, and workers that are replaced under load: nothing lost, twice, or mixed up."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import replace
from pathlib import Path

import msgpack

from stream_infer.schemas import Record
from stream_infer.web.probe import read_metrics
from tests.broker.conftest import MakeTopic
from tests.broker.lanes import CHUNK, Lane, feed, feed_until, texts, watched
from tests.broker.probes import read_committed
from tests.broker.service_process import ServiceProcess

WORKERS = 3


async def test_what_cannot_be_on_time_is_shed_and_the_group_stays_as_it_is(
    lane: Lane, tmp_path: Path
) -> None:
    """A flood of ten times what fits in the budget: some are served, the others say that they were late."""
    given = texts(3_000, seed=11)
    settings = lane.settings.replace(":scorer", ":slow_scorer") + 'late = "shed"\n'
    shedding = replace(lane, settings=settings)
    async with watched(lane) as outcomes, ServiceProcess(shedding.settings, tmp_path) as worker:
        before = (await read_metrics(worker.url))["stream_infer_rebalances_total"]
        await feed(shedding, given, outcomes, ahead=len(given))
        await outcomes.reach(len(given))
        after = (await read_metrics(worker.url))["stream_infer_rebalances_total"]

    assert (await lane.audit()).is_clean
    assert before == after
    letters = await read_committed(lane.connection, lane.dead_letters)
    assert {b"late"} == {dict(letter.headers)["dead_letter_reason"] for letter in letters}
    stages = Counter(dict(letter.headers)["dead_letter_stage"] for letter in letters)
    assert stages[b"queue"]
    assert 0 < len(letters) < len(given)


async def test_workers_restarted_one_after_the_other(lane: Lane, tmp_path: Path) -> None:
    done = asyncio.Event()
    async with watched(lane) as outcomes, asyncio.TaskGroup() as tasks:
        feeding = tasks.create_task(feed_until(lane, done, outcomes, ahead=5 * CHUNK))
        workers = [ServiceProcess(lane.settings, tmp_path, name=f"worker-{n}") for n in range(WORKERS)]
        async with workers[0], workers[1], workers[2]:
            for worker in workers:
                await outcomes.reach(outcomes.count + 5 * CHUNK)
                assert 0 == await worker.stop()
                await worker.start()
                await worker.ready()
            done.set()
            await outcomes.reach(await feeding)

    assert (await lane.audit()).is_clean


async def test_a_new_revision_is_rolled_out_beside_the_old_one(
    lane: Lane, tmp_path: Path, make_topic: MakeTopic
) -> None:
    """Both share a cache, and get the same texts; each result is that of the revision which it names."""
    cache = await make_topic(1, cleanup_policy="compact")
    old = lane.settings.replace("max_bytes = 0", f'max_bytes = 10000000\nshared = true\ntopic = "{cache}"')
    new = old.replace(":scorer", ":revised_scorer")
    given = texts(200, seed=3)
    async with watched(lane) as outcomes, ServiceProcess(old, tmp_path, name="old") as leaving:
        await feed(lane, given, outcomes, ahead=CHUNK)
        async with ServiceProcess(new, tmp_path, name="new"):
            for _ in range(4):
                await feed(lane, given, outcomes, ahead=CHUNK)
            assert 0 == await leaving.stop()
            await feed(lane, given, outcomes, ahead=CHUNK)
            await outcomes.reach(6 * len(given))

    assert (await lane.audit()).is_clean
    results = await read_committed(lane.connection, lane.output)
    asked = {record.position: record.value for record in await read_committed(lane.connection, lane.input)}
    revisions = Counter(_revision_of(result, asked) for result in results)
    assert {b"1", b"2"} == set(revisions)
    assert revisions[b"2"] > len(given)


def _revision_of(result: Record, asked: dict[str, bytes | None]) -> bytes:
    """Return the revision that a result names, once its label is seen to be that revision's."""
    body, revision = msgpack.unpackb(result.value or b""), dict(result.headers)["model_revision"] or b""
    text = msgpack.unpackb(asked[body["id"]] or b"")["text"].strip()
    assert body["label"] == ("even", "odd")[(len(text) + (revision != b"1")) % 2]
    return revision
