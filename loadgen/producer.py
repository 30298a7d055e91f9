"""An open-loop producer: what is due is sent, however far behind the other side may be."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice, takewhile
from typing import Any, Protocol

import msgpack
from aiokafka import AIOKafkaProducer

from loadgen.schedule import Arrivals, due_times
from loadgen.texts import Body, with_repeats

Summary = dict[str, float | int | str]


@dataclass(frozen=True, slots=True)
class Load:
    """What to send; it ends after `count` events or `max_seconds`, whichever comes first."""

    topic: str
    bodies: Sequence[Body]
    rate: float
    count: int
    max_seconds: float
    arrivals: Arrivals
    repeat_share: float
    keys: int
    run: str


@dataclass(frozen=True, slots=True)
class Event:
    """One event and when it is due, in seconds after the start."""

    due: float
    id: str
    key: bytes | None
    value: bytes


@dataclass(frozen=True, slots=True)
class Clock:
    """Where time comes from: monotonic seconds, seconds since the epoch, and waiting."""

    now: Callable[[], float] = time.monotonic
    wall: Callable[[], float] = time.time
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep


REAL_CLOCK = Clock()


class Sender(Protocol):
    """The part of a Kafka producer that a load needs."""

    async def send(
        self, topic: str, value: bytes, key: bytes | None, *, timestamp_ms: int, headers: Sequence[Any]
    ) -> asyncio.Future[Any]:
        """Queue a record; the future is done when the broker has acknowledged it."""
        ...


def plan_events(load: Load, draw: random.Random) -> Iterator[Event]:
    """Yield the events of a load in the order in which they are due."""
    times = takewhile(lambda due: due < load.max_seconds, due_times(load.rate, load.arrivals, draw))
    bodies = with_repeats(load.bodies, load.repeat_share, draw)
    for number, (due, body) in enumerate(islice(zip(times, bodies, strict=False), load.count)):
        key = f"key-{draw.randrange(load.keys)}".encode() if load.keys else None
        yield Event(due, f"{load.run}-{number}", key, msgpack.packb(body))


async def send_load(load: Load, bootstrap_servers: str, draw: random.Random) -> Summary:
    """Send a load to a broker and return what came of it."""
    producer = AIOKafkaProducer(bootstrap_servers=bootstrap_servers, linger_ms=1)
    async with producer:
        return await send_events(load, producer, draw)


async def send_events(load: Load, sender: Sender, draw: random.Random, clock: Clock = REAL_CLOCK) -> Summary:
    """Send each event when it is due and return counts, rate and the greatest lag behind the schedule.

    A record's timestamp is when it was due, not when it was sent: a latency counted from it holds
    whatever time the event had to wait here.
    """
    tally = _Tally()
    start, start_ms = clock.now(), clock.wall() * 1000
    for event in plan_events(load, draw):
        if (early := start + event.due - clock.now()) > 0:
            await clock.sleep(early)
        tally.lag = max(tally.lag, clock.now() - start - event.due)
        acknowledged = await sender.send(
            load.topic,
            event.value,
            event.key,
            timestamp_ms=round(start_ms + event.due * 1000),
            headers=[("ce_id", event.id.encode())],
        )
        tally.sent += 1
        tally.bytes += len(event.value)
        acknowledged.add_done_callback(tally.count)
    sent_seconds = clock.now() - start
    await tally.wait()
    return {
        "run": load.run,
        "topic": load.topic,
        "sent": tally.sent,
        "acknowledged": tally.acknowledged,
        "failed": tally.failed,
        "distinct_texts": min(tally.sent, len(load.bodies)),
        "bytes": tally.bytes,
        "seconds": round(sent_seconds, 3),
        "rate_asked": load.rate,
        "rate": round(tally.sent / sent_seconds, 1) if sent_seconds else 0.0,
        "max_lag_ms": round(tally.lag * 1000, 1),
    }


class _Tally:
    """Counts what was sent and what the broker made of it."""

    def __init__(self) -> None:
        self.sent = self.acknowledged = self.failed = self.bytes = 0
        self.lag = 0.0
        self._changed = asyncio.Event()

    def count(self, acknowledged: asyncio.Future[Any]) -> None:
        if acknowledged.cancelled() or acknowledged.exception():
            self.failed += 1
        else:
            self.acknowledged += 1
        self._changed.set()

    async def wait(self) -> None:
        """Return once every record was acknowledged or has failed."""
        while self.acknowledged + self.failed < self.sent:
            self._changed.clear()
            await self._changed.wait()
