"""What befalls brokers: they are killed, restarted and suspended, led by others, and throttled."""

from __future__ import annotations

import asyncio
import random
import signal
from functools import partial
from typing import Final

from confluent_kafka import Producer

from tests.faults import admin
from tests.faults.fault import EVERYWHERE, ON_CLUSTERS, ON_KAFKA, Fault
from tests.faults.load import Special
from tests.faults.scene import ELSEWHERE, INPUT, OUTPUT, OUTPUTS, NotRealError, Scene, until
from tests.faults.schedule import Share

SUSPENDED_S: Final = 5.0
"""Longer than the controllers wait for a broker's heartbeat."""
THROTTLED_S: Final = 3.0
THROTTLED_BYTES: Final = 10_000
QUOTA_WINDOW_S: Final = 11
"""Kafka measures rates over so many seconds by default, so a burst of this length passes."""
SMALL_BYTES: Final = 2_048
REFUSED: Final = "result_too_large"
"""The reason in the dead letter of a result that the broker does not take."""
_COORDINATION: Final = ("__consumer_offsets", "__transaction_state")


async def restart(scene: Scene, draw: random.Random, *, number: signal.Signals) -> None:
    """End a node, politely or not, and start it again."""
    node = draw.choice(scene.brokers.nodes)
    await node.stop(number)
    await node.start()


async def roll(scene: Scene, _: random.Random) -> None:
    """Restart one node after the other, as an upgrade does."""
    for node in scene.brokers.nodes:
        await node.stop()
        await node.start()


async def all_down(scene: Scene, _: random.Random) -> None:
    """Kill every node at once, and have none for a while."""
    nodes = scene.brokers.nodes
    await asyncio.gather(*(node.stop(signal.SIGKILL) for node in nodes))
    await asyncio.sleep(scene.conditions.outage_s)
    await asyncio.gather(*(node.start() for node in nodes))


async def suspend(scene: Scene, draw: random.Random) -> None:
    """Suspend a node for longer than the cluster waits for it: others lead, and it does not know."""
    assert scene.brokers.cluster is not None
    node = draw.choice(scene.brokers.cluster.nodes)
    node.send(signal.SIGSTOP)
    await asyncio.sleep(SUSPENDED_S)
    node.send(signal.SIGCONT)


async def move_leaders(scene: Scene, _: random.Random) -> None:
    """Have other nodes lead the topics, the coordinators of groups and transactions included."""
    topics = (INPUT, *OUTPUTS, *_COORDINATION)
    if not await admin.move_leaders(scene.direct, topics):
        raise NotRealError("no leader moved")


async def add_partition(scene: Scene, _: random.Random) -> None:
    """Give the input one partition more, and write to it at once."""
    await admin.add_partition(scene.direct, INPUT)
    scene.load.add_partition()


async def throttle(scene: Scene, _: random.Random) -> None:
    """Let no client read or write as fast as it does."""
    await admin.limit_clients(scene.direct, THROTTLED_BYTES)
    try:
        throttled = await asyncio.to_thread(_count_throttled, scene.direct.bootstrap_servers)
        await asyncio.sleep(THROTTLED_S)
    finally:
        await admin.limit_clients(scene.direct, None)
    if not throttled:
        raise NotRealError("the broker throttled nobody")


async def shrink_output(scene: Scene, _: random.Random) -> None:
    """Let the topic of results take no more than small batches, and send a record with a large key.

    Its result does not fit, and must become a dead letter, which does.
    """
    known = scene.progress.reasons[REFUSED]
    await admin.set_topic(scene.direct, OUTPUT, {"max.message.bytes": str(SMALL_BYTES)})
    try:
        scene.load.slip_in([Special("large", key=b"k" * 2 * SMALL_BYTES)])

        async def is_refused() -> bool:
            return scene.progress.reasons[REFUSED] > known

        await until(is_refused, "a dead letter for the result that does not fit", 60.0)
    finally:
        await admin.set_topic(scene.direct, OUTPUT, {"max.message.bytes": None})


def _count_throttled(servers: str) -> int:
    """Write more than the quota allows, and return how often the broker asked to wait."""
    waits: list[object] = []
    producer = Producer({"bootstrap.servers": servers, "throttle_cb": waits.append, "linger.ms": 0})
    for _ in range(2 * QUOTA_WINDOW_S * THROTTLED_BYTES // 1_000):
        producer.produce(ELSEWHERE, value=bytes(1_000), partition=0)
        producer.poll(0)
    producer.flush(20.0)
    return len(waits)


FAULTS: Final = (
    Fault("broker killed", partial(restart, number=signal.SIGKILL), kinds=ON_KAFKA),
    Fault("broker restarted", partial(restart, number=signal.SIGTERM), kinds=ON_KAFKA),
    Fault("brokers restarted in turn", roll, kinds=ON_CLUSTERS, share=Share(0.3)),
    Fault("all brokers down", all_down, kinds=ON_KAFKA, share=Share(0.5)),
    Fault("broker suspended", suspend, kinds=ON_CLUSTERS),
    Fault("leaders moved", move_leaders, kinds=ON_CLUSTERS),
    Fault("partition added", add_partition, kinds=EVERYWHERE, share=Share(0.3, limit=3)),
    Fault("clients throttled", throttle, kinds=ON_KAFKA, share=Share(0.5)),
    Fault("output too small for a result", shrink_output, kinds=ON_KAFKA),
)
