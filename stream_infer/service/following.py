"""What a worker learns from other processes: passages, outputs others computed, and how right they were."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import structlog

from stream_infer.bus.batches import OutRecord
from stream_infer.bus.connection import Connection
from stream_infer.bus.follower import TopicFollower
from stream_infer.bus.publisher import Publisher
from stream_infer.errors import AccessRefusedError, BusError, ConfigError
from stream_infer.retrieval.cache import EmbeddingCache, decode_output, encode_output
from stream_infer.retrieval.index import PassageIndex
from stream_infer.retrieval.passages import decode_passage
from stream_infer.schemas import Output, Record
from stream_infer.service.quality import QualityBoard

log = structlog.get_logger(__name__)

SHARE_INTERVAL = 0.1
"""Seconds between two writes to the shared cache: many entries in one batch cost little."""
QUALITY_PAUSE = 60.0
"""Seconds before a topic of quality that was not there is looked for again."""


async def follow_passages(
    connection: Connection,
    topic: str,
    index: PassageIndex,
    space: str,
    *,
    replayed: asyncio.Event,
) -> None:
    """Keep the index as the topic says, until cancelled; `replayed` is set once it is up to date.

    Passages whose vectors come from another model than `space` names are left out and logged.

    Raises:
        AccessRefusedError: the broker does not let this worker read the topic.
    """
    async with TopicFollower(connection, [topic]) as follower, asyncio.TaskGroup() as group:
        group.create_task(_forward(follower.caught_up, replayed))
        async for records in follower:
            for record in records:
                _apply_passage(record, index, space)


async def share_cache(
    connection: Connection,
    topic: str,
    cache: EmbeddingCache,
    take_fresh: Callable[[], list[tuple[bytes, Output]]],
) -> None:
    """Publish what this worker computed and take in what others did, until cancelled.

    Losing entries costs time, never correctness, so a failed write is logged and forgotten.

    Raises:
        AccessRefusedError: the broker does not let this worker read or write the topic.
    """
    async with (
        TopicFollower(connection, [topic]) as follower,
        Publisher(connection) as publisher,
        asyncio.TaskGroup() as group,
    ):
        group.create_task(_take_in(follower, cache))
        group.create_task(_give_out(publisher, topic, take_fresh))


async def follow_quality(connection: Connection, topic: str, board: QualityBoard) -> None:
    """Keep the board as the topic says, until cancelled.

    No worker needs the topic: it may come later, or never, and a broker that refuses stops nothing.
    """
    known = ""
    while True:
        try:
            async with TopicFollower(connection, [topic]) as follower:
                async for records in follower:
                    for record in records:
                        board.take(record)
        except (ConfigError, BusError) as error:
            if str(error) != known:
                log.info("quality_not_followed", topic=topic, error=str(error))
            known = str(error)
        await asyncio.sleep(QUALITY_PAUSE)


async def _forward(first: asyncio.Event, second: asyncio.Event) -> None:
    await first.wait()
    second.set()


def _apply_passage(record: Record, index: PassageIndex, space: str) -> None:
    try:
        _index_passage(record, index, space)
    except ValueError as error:
        log.warning("passage_skipped", partition=record.partition, offset=record.offset, error=str(error))


def _index_passage(record: Record, index: PassageIndex, space: str) -> None:
    if record.key is None:
        raise ValueError("it has no key")
    if record.value is None:
        index.delete(record.key)
        return
    indexed = decode_passage(record.key, record.value)
    if indexed.revision != space:
        raise ValueError(f"its vector was made by {indexed.revision}, this worker has {space}")
    if not index.upsert(indexed.passage, indexed.vector):
        raise ValueError("the index is full")


async def _take_in(follower: TopicFollower, cache: EmbeddingCache) -> None:
    async for records in follower:
        for record in records:
            _apply_entry(record, cache)


def _apply_entry(record: Record, cache: EmbeddingCache) -> None:
    if record.key is None:
        return
    if record.value is None:
        cache.discard(record.key)
        return
    try:
        cache.put_shared(record.key, decode_output(record.value))
    except ValueError as error:
        log.warning("cache_entry_skipped", partition=record.partition, offset=record.offset, error=str(error))


async def _give_out(
    publisher: Publisher, topic: str, take_fresh: Callable[[], list[tuple[bytes, Output]]]
) -> None:
    while True:
        await asyncio.sleep(SHARE_INTERVAL)
        entries = [OutRecord(topic, key, encode_output(output)) for key, output in take_fresh()]
        if not entries:
            continue
        try:
            await publisher.publish(entries)
        except AccessRefusedError:
            raise
        except BusError as error:
            log.warning("cache_entries_not_shared", entries=len(entries), error=str(error))
