"""Whether the topics that are written to are there: a record for one that is not would wait for ever.

aiokafka takes a topic that is gone for one that is about to come, and says nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Coroutine, Iterable
from time import monotonic
from typing import Any, TypeVar

from aiokafka.errors import TopicAuthorizationFailedError

from stream_infer.bus.batches import Target
from stream_infer.bus.connection import REACH_BACKOFF
from stream_infer.errors import BusError

T = TypeVar("T")

LOOK_SECONDS = 1.0
"""How long records are on their way before it is looked whether their topics are there, and again."""
ABSENCE_SECONDS = 2.0
"""How long a topic is not to be seen before it counts as missing: brokers hear of a new one a little late."""


async def partition_counts(client: Any, topics: Iterable[str]) -> dict[str, int]:
    """Return how many partitions each topic has, however long the broker is out of reach.

    Raises:
        TopicAuthorizationFailedError: the broker hides one from this client.
        BusError: it says that one is not there; it is named.
    """
    counts = {}
    for topic in topics:
        if client.cluster.partitions_for_topic(topic) is None:
            await _wait_for(client, topic)
        counts[topic] = len(client.cluster.partitions_for_topic(topic))
    return counts


async def while_there(client: Any, targets: Collection[Target], waiting: Coroutine[Any, Any, T]) -> T:
    """Return what is waited for, as long as what it is written to is there.

    Raises:
        BusError: a topic or partition is not there any more; it is named.
    """
    task = asyncio.create_task(waiting)
    missed: set[Target] = set()
    try:
        while not (await asyncio.wait({task}, timeout=LOOK_SECONDS))[0]:
            absent = {target for target in targets if not _is_there(client, target)}
            # Not to be seen once may be a broker that has just started.
            if gone := absent & missed:
                raise _missing(sorted({topic for topic, _ in gone}))
            missed = absent
            # A topic that is gone while it is added to a transaction is known until somebody asks.
            client.force_metadata_update()
        return task.result()
    finally:
        task.cancel()
        await asyncio.wait({task})


async def _wait_for(client: Any, topic: str) -> None:
    """Return once the topic is known."""
    client.add_topic(topic)
    missed_since = None
    while True:
        has_answered = await client.force_metadata_update()
        if client.cluster.partitions_for_topic(topic) is not None:
            return
        if topic in client.cluster.unauthorized_topics:
            raise TopicAuthorizationFailedError(topic)
        missed_since = (missed_since or monotonic()) if has_answered else None
        if missed_since and monotonic() - missed_since > ABSENCE_SECONDS:
            raise _missing([topic])
        await asyncio.sleep(REACH_BACKOFF)


def _is_there(client: Any, target: Target) -> bool:
    topic, partition = target
    return partition in (client.cluster.partitions_for_topic(topic) or ())


def _missing(topics: list[str]) -> BusError:
    return BusError(f"no such topic, or not with as many partitions any more: {', '.join(topics)}")
