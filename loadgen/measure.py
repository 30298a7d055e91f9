"""What a running service carries: events a second when saturated, and latencies below that."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition

from loadgen.producer import Load, plan_events, send_events
from loadgen.schedule import Arrivals

LOAD_SHARE = 0.5
"""The share of the saturated rate at which latencies are measured."""
SATURATING_RATE = 1e6
PATIENCE_SECONDS = 180.0


@dataclass(frozen=True, slots=True)
class Figures:
    """What was measured; latencies go from when an event was due to when its outcome was read."""

    events: int
    events_per_s: float
    steady_rate: float
    p50_ms: float
    p99_ms: float


async def measure(load: Load, bootstrap_servers: str, outputs: Sequence[str], seed: int) -> Figures:
    """Send a load as fast as it goes, then once more, steadily, at `LOAD_SHARE` of the rate found.

    Only the service's cache can make the second run of the same texts cheaper than the first:
    switch it off to measure the models.

    Raises:
        TimeoutError: outcomes did not all come back.
    """
    flood = replace(load, rate=SATURATING_RATE, arrivals=Arrivals.CONSTANT, run=f"{load.run}-flood")
    flood_latencies, seconds = await _run(flood, bootstrap_servers, outputs, seed)
    rate = len(flood_latencies) / seconds
    steady = replace(load, rate=rate * LOAD_SHARE, arrivals=Arrivals.POISSON, run=f"{load.run}-steady")
    latencies, _ = await _run(steady, bootstrap_servers, outputs, seed)
    p50, p99 = (round(float(each) * 1000, 1) for each in np.percentile(latencies, (50, 99)))
    return Figures(len(latencies), round(rate, 1), round(steady.rate, 1), p50, p99)


async def _run(
    load: Load, bootstrap_servers: str, outputs: Sequence[str], seed: int
) -> tuple[list[float], float]:
    """Return each event's latency, and the seconds from the first event to the last outcome."""
    due = {event.id: event.due for event in plan_events(load, random.Random(seed))}
    producer = AIOKafkaProducer(bootstrap_servers=bootstrap_servers, linger_ms=1)
    async with _reader(bootstrap_servers, outputs) as consumer, producer, asyncio.TaskGroup() as group:
        started = time.monotonic()
        group.create_task(send_events(load, producer, random.Random(seed)))
        latencies: list[float] = []
        async with asyncio.timeout(PATIENCE_SECONDS):
            while due:
                batches = await consumer.getmany(timeout_ms=100)
                elapsed = time.monotonic() - started
                found = [_identity(message) for messages in batches.values() for message in messages]
                latencies += [elapsed - due.pop(identity) for identity in found if identity in due]
        return latencies, elapsed


def _identity(message: Any) -> str:
    headers = dict(message.headers)
    return str((headers.get("dead_letter_id") or headers.get("ce_id") or b"").decode())


@asynccontextmanager
async def _reader(bootstrap_servers: str, topics: Sequence[str]) -> AsyncIterator[Any]:
    """Read committed outcomes from now on."""
    consumer = AIOKafkaConsumer(bootstrap_servers=bootstrap_servers, isolation_level="read_committed")
    async with consumer:
        targets = [
            TopicPartition(topic, partition)
            for topic in topics
            for partition in await consumer._client._wait_on_metadata(topic)  # noqa: SLF001 - the public way needs a group
        ]
        consumer.assign(targets)
        await consumer.seek_to_end(*targets)
        yield consumer
