"""An output topic that is not there: it is named, nothing is lost, and work goes on once it is."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from loadgen.verdict import Kind
from stream_infer.bus.connection import Connection, open_admin
from stream_infer.bus.publisher import Publisher
from stream_infer.bus.topics import TopicSpec, apply
from tests.broker.lanes import CHUNK, PATIENCE, Lane, feed, requests, texts, watched
from tests.broker.probes import read_committed
from tests.broker.service_process import ServiceProcess


async def delete(connection: Connection, topic: str) -> None:
    """Take a topic away, and return once it is gone."""
    async with open_admin(connection) as admin, asyncio.timeout(PATIENCE):
        await admin.delete_topics([topic])
        while topic in await admin.list_topics():  # noqa: ASYNC110 - a broker sets no event
            await asyncio.sleep(0.05)


async def make(connection: Connection, topic: str) -> None:
    """Make a topic of four partitions."""
    spec = TopicSpec(name=topic, description="", direction="internal", partitions=4, key="")
    await apply(connection, [spec])


async def until_said(worker: ServiceProcess, event: str, topic: str) -> None:
    """Return once the worker has logged an event that names a topic as one that is not there."""
    async with asyncio.timeout(PATIENCE):
        while not any(  # noqa: ASYNC110 - another process sets no event
            event in line and f"no such topic, or not with as many partitions any more: {topic}" in line
            for line in worker.log_path.read_text().splitlines()
        ):
            await asyncio.sleep(0.05)


async def test_a_worker_does_not_start_without_its_output(lane: Lane, tmp_path: Path) -> None:
    await delete(lane.connection, lane.output)
    worker = ServiceProcess(lane.settings, tmp_path)

    await worker.start()

    assert 0 != await worker.ends()
    assert f"no such topic: {lane.output}" in worker.log_path.read_text()


@pytest.mark.parametrize("delivery", ["exactly-once", "at-least-once"])
async def test_an_output_that_is_deleted_and_made_again(lane: Lane, delivery: str, tmp_path: Path) -> None:
    """What was published before is gone with the topic; all else comes once, when there is one again."""
    early, late = texts(2 * CHUNK, seed=1), texts(2 * CHUNK, seed=2)
    async with ServiceProcess(f'{lane.settings}delivery = "{delivery}"\n', tmp_path) as worker:
        async with watched(lane) as outcomes:
            await feed(lane, early, outcomes, ahead=CHUNK)
            await outcomes.reach(len(early))
        gone = {record.position for record in await read_committed(lane.connection, lane.input)}
        await delete(lane.connection, lane.output)
        async with Publisher(lane.connection) as publisher:
            await publisher.publish(requests(lane.input, late))
        await until_said(worker, "publish_failed", lane.output)
        await make(lane.connection, lane.output)
        async with watched(lane) as outcomes:
            await outcomes.reach(len(late))

    verdict = await lane.audit()
    assert {Kind.LOST: len(early)} == verdict.counts
    assert gone == {f"{each.topic}/{each.partition}/{each.offset}" for each in verdict.offenders}
