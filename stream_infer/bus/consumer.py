"""Consumers that read whatever brokers and other clients made of a topic: one way to make them all.

It knows brokers and aiokafka, and nothing of the service: any reader may use it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from typing import Any, Literal

from aiokafka import AIOKafkaConsumer, TopicPartition

from stream_infer.bus.aborts import AbortFilter
from stream_infer.bus.pacing import pace_empty_fetches
from stream_infer.bus.tolerance import accept_any_header_name

SETTLE_SECONDS = 5.0
"""How long open transactions are waited for before what is committed is read without them."""
SETTLE_PAUSE = 0.01

Isolation = Literal["read_committed", "read_uncommitted"]


def make_consumer(
    arguments: Mapping[str, Any], *, isolation: Isolation = "read_committed", **options: Any
) -> Any:
    """Return a consumer, not yet started, whose positions are its owner's to name and to commit.

    `arguments` say how to reach the broker; `options` are aiokafka's.
    """
    consumer = AIOKafkaConsumer(
        **arguments,
        isolation_level=isolation,
        enable_auto_commit=False,
        auto_offset_reset="none",
        **options,
    )
    harden(consumer)
    return consumer


def harden(consumer: Any) -> None:
    """Make a consumer, before it starts, cope with stale aborts, empty answers and any header name."""
    accept_any_header_name()
    pace_empty_fetches()
    AbortFilter(consumer)


async def partitions_of(consumer: Any, topics: Iterable[str]) -> list[TopicPartition]:
    """Return the partitions of topics that exist, as a started consumer's broker names them."""
    return [
        TopicPartition(topic, partition)
        for topic in sorted(set(topics))
        for partition in sorted(await consumer._client._wait_on_metadata(topic))  # noqa: SLF001 - the public way answers None until asked before
    ]


async def wait_until_settled(committed: Any, written: Mapping[TopicPartition, int]) -> bool:
    """Return once a consumer of committed records can read up to what was written, or that it cannot.

    Kafka answers a commit before it has marked it on the partitions; until then what was committed
    cannot be read. After `SETTLE_SECONDS` a transaction counts as left open.
    """
    try:
        async with asyncio.timeout(SETTLE_SECONDS):
            while not _reaches(await committed.end_offsets(written), written):  # noqa: ASYNC110 - a broker sets no event
                await asyncio.sleep(SETTLE_PAUSE)
    except TimeoutError:
        return False
    return True


def _reaches(ends: Mapping[TopicPartition, int], marks: Mapping[TopicPartition, int]) -> bool:
    return all(ends[partition] >= mark for partition, mark in marks.items())
