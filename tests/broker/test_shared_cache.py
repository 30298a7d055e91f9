"""What one worker computed is found by the others: the cache's shared tier over a topic."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import numpy as np
from structlog.testing import capture_logs

from stream_infer.bus.batches import OutRecord
from stream_infer.bus.connection import Connection
from stream_infer.bus.publisher import Publisher
from stream_infer.retrieval.cache import EmbeddingCache
from stream_infer.schemas import Output
from stream_infer.service.following import share_cache
from tests.broker.conftest import MakeTopic
from tests.broker.probes import PATIENCE

Fresh = list[tuple[bytes, Output]]
VECTOR = np.array([0.5, -2.0], np.float16)


class Worker:
    """The part of a worker that shares: its cache, and what it computed since it was last asked."""

    def __init__(self) -> None:
        self.cache = EmbeddingCache(1_000_000)
        self.fresh: Fresh = []

    def take_fresh(self) -> Fresh:
        """Return what was computed since the last call."""
        taken, self.fresh = self.fresh, []
        return taken

    async def has(self, key: bytes, matches: Callable[[Output | None], bool]) -> None:
        """Return once the cache holds what is expected under the key."""
        async with asyncio.timeout(PATIENCE):
            while not matches(self.cache.get(key)):  # noqa: ASYNC110 - a cache sets no event
                await asyncio.sleep(0.02)


def holds_vector(found: Output | None) -> bool:
    return found is not None and found.vector is not None and found.vector.tolist() == VECTOR.tolist()


async def test_outputs_cross_from_worker_to_worker(connection: Connection, make_topic: MakeTopic) -> None:
    topic = await make_topic(2, cleanup_policy="compact")
    first, second = Worker(), Worker()
    async with asyncio.TaskGroup() as group:
        sharing = [
            group.create_task(share_cache(connection, topic, worker.cache, worker.take_fresh))
            for worker in (first, second)
        ]
        first.fresh = [(b"vector", Output(vector=VECTOR)), (b"text", Output(text="olá", truncated=True))]
        second.fresh = [(b"other", Output(text="other"))]

        await second.has(b"vector", holds_vector)
        await second.has(b"text", lambda found: found == Output(text="olá", truncated=True))
        await first.has(b"other", lambda found: found == Output(text="other"))
        for task in sharing:
            task.cancel()


async def test_a_new_worker_replays_and_a_broken_entry_does_no_harm(
    connection: Connection, make_topic: MakeTopic
) -> None:
    topic = await make_topic(1, cleanup_policy="compact")
    first, late = Worker(), Worker()
    async with asyncio.TaskGroup() as group:
        sharing = [group.create_task(share_cache(connection, topic, first.cache, first.take_fresh))]
        async with Publisher(connection) as publisher:
            await publisher.publish([OutRecord(topic, b"broken", b"\xc1")])
        first.fresh = [(b"kept", Output(text="kept")), (b"gone", Output(text="gone"))]
        await first.has(b"gone", lambda found: found is not None)
        async with Publisher(connection) as publisher:
            await publisher.publish([OutRecord(topic, b"gone", None)])
        await first.has(b"gone", lambda found: found is None)

        sharing.append(group.create_task(share_cache(connection, topic, late.cache, late.take_fresh)))
        await late.has(b"kept", lambda found: found == Output(text="kept"))
        await late.has(b"gone", lambda found: found is None)
        assert late.cache.get(b"broken") is None
        for task in sharing:
            task.cancel()


async def test_what_the_topic_does_not_take_is_said_and_the_rest_goes_on(
    connection: Connection, make_topic: MakeTopic
) -> None:
    """The worker that computed it has it all the same."""
    topic = await make_topic(1, cleanup_policy="compact", max_message_bytes=1_000)
    first, second = Worker(), Worker()
    async with asyncio.TaskGroup() as group:
        sharing = [
            group.create_task(share_cache(connection, topic, worker.cache, worker.take_fresh))
            for worker in (first, second)
        ]
        with capture_logs() as logs:
            first.fresh = [(b"large", Output(text="x" * 5_000))]
            async with asyncio.timeout(PATIENCE):
                while not logs:  # noqa: ASYNC110 - a log sets no event
                    await asyncio.sleep(0.02)
            first.fresh = [(b"small", Output(text="small"))]
            await second.has(b"small", lambda found: found == Output(text="small"))
        assert ["cache_entries_not_shared"] == [entry["event"] for entry in logs]
        assert second.cache.get(b"large") is None
        for task in sharing:
            task.cancel()
