"""An open-loop producer: what is due is sent, however far behind the other side may be."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice, takewhile
from typing import Any, Final, Protocol

import msgpack
from aiokafka.errors import KafkaError

from loadgen.recorder import Event, Recorder
from loadgen.schedule import Profile, due_times
from loadgen.texts import Body, Pool, with_repeats

HOT_KEY: Final = b"key-hot"
POISON: Final = (
    b"\xc1 is no msgpack",
    msgpack.packb(["text"]),
    msgpack.packb({}),
    msgpack.packb({"text": 7, "question": 7}),
    b'{"text": "cut off',
)
"""Values that no task takes: each must become a dead letter."""


@dataclass(frozen=True, slots=True)
class Load:
    """What to send; it ends after `count` events or `max_seconds`, whichever comes first.

    Keys are drawn evenly from `keys` of them, but for `hot_share` of the events, which have one in common.
    """

    topic: str
    pools: Sequence[Pool]
    profile: Profile
    count: int
    max_seconds: float
    run: str
    keys: int = 64
    repeat_share: float = 0.0
    hot_share: float = 0.0
    poison_share: float = 0.0


@dataclass(frozen=True, slots=True)
class Clock:
    """Where time comes from: monotonic seconds, seconds since the epoch, and waiting."""

    now: Callable[[], float] = time.monotonic
    wall: Callable[[], float] = time.time
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep


REAL_CLOCK: Final = Clock()


class Sender(Protocol):
    """The part of a Kafka producer that a load needs."""

    async def send(
        self, topic: str, value: bytes, key: bytes | None, *, timestamp_ms: int, headers: Sequence[Any]
    ) -> asyncio.Future[Any]:
        """Queue a record; the future is done when the broker has acknowledged it."""
        ...


def plan_events(load: Load, draw: random.Random) -> Iterator[Event]:
    """Yield the events of a load in the order in which they are due."""
    times = takewhile(lambda due: due < load.max_seconds, due_times(load.profile, draw))
    bodies = with_repeats(load.pools, load.repeat_share, draw)
    for number, (due, body) in enumerate(islice(zip(times, bodies, strict=False), load.count)):
        is_poison = draw.random() < load.poison_share
        value = draw.choice(POISON) if is_poison else _pack(body)
        yield Event(due, f"{load.run}-{number}", _draw_key(load, draw), value, is_poison)


async def send_events(
    load: Load,
    senders: Sequence[Sender],
    draw: random.Random,
    recorder: Recorder,
    clock: Clock = REAL_CLOCK,
    *,
    start: float | None = None,
) -> None:
    """Send each event when it is due, and return once each was acknowledged or has failed.

    Whichever sender is free takes the next event. A record's timestamp is when it was due, not when it
    was sent: a latency counted from it holds whatever time the event had to wait here. The schedule
    begins at `start`, a time of the clock, or now.
    """
    start = clock.now() if start is None else start
    sending = _Sending(load, plan_events(load, draw), recorder, clock, start)
    async with asyncio.TaskGroup() as tasks:
        for sender in senders:
            tasks.create_task(sending.send_through(sender))
    recorder.end_sending(clock.now() - start)
    await sending.acknowledged()


class _Sending:
    """What the senders of one load share: the events still to come, and who awaits acknowledgement."""

    def __init__(
        self, load: Load, events: Iterator[Event], recorder: Recorder, clock: Clock, start: float
    ) -> None:
        self._start = start
        self._start_ms = (clock.wall() - clock.now() + start) * 1000
        self._topic = load.topic
        self._events = events
        self._recorder = recorder
        self._clock = clock
        self._open = 0
        self._changed = asyncio.Event()

    async def send_through(self, sender: Sender) -> None:
        """Send what is due through one sender until no event is left."""
        for event in self._events:
            if (early := self._start + event.due - self._clock.now()) > 0:
                await self._clock.sleep(early)
            self._recorder.send(event, self._clock.now() - self._start)
            await self._send(sender, event)

    async def acknowledged(self) -> None:
        """Return once the broker has answered for every event."""
        while self._open:
            self._changed.clear()
            await self._changed.wait()

    async def _send(self, sender: Sender, event: Event) -> None:
        self._open += 1
        try:
            future = await sender.send(
                self._topic,
                event.value,
                event.key,
                timestamp_ms=round(self._start_ms + event.due * 1000),
                headers=[("ce_id", event.id.encode())],
            )
        except KafkaError:
            self._settle(event, is_written=False)
        else:
            future.add_done_callback(lambda done: self._settle(event, is_written=_has_succeeded(done)))

    def _settle(self, event: Event, *, is_written: bool) -> None:
        self._open -= 1
        self._recorder.acknowledge(event, is_written=is_written)
        self._changed.set()


def _pack(body: Body) -> bytes:
    packed: bytes = msgpack.packb(body)
    return packed


def _draw_key(load: Load, draw: random.Random) -> bytes | None:
    if load.hot_share and draw.random() < load.hot_share:
        return HOT_KEY
    return b"key-%d" % draw.randrange(load.keys) if load.keys else None


def _has_succeeded(future: asyncio.Future[Any]) -> bool:
    return not future.cancelled() and future.exception() is None
