"""Steady load on every partition of a topic, never far ahead of what has come of it."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from time import monotonic
from typing import Any, Final

import msgpack
from aiokafka.errors import KafkaError

from stream_infer.bus.connection import Connection
from stream_infer.bus.sending import BATCH_BYTES, start_producer, stop_producer
from tests.faults.progress import Progress

CHUNK: Final = 25
KEYS: Final = 12
LONGEST_TEXT: Final = 60


@dataclass(frozen=True, slots=True)
class Special:
    """A record out of the ordinary that is to be sent among the others."""

    text: str
    key: bytes | None = None
    timestamp_ms: int | None = None


class Slip:
    """Special records that are sent together, and whether all of them are."""

    def __init__(self, count: int) -> None:
        self._left = count

    @property
    def is_sent(self) -> bool:
        """Whether the broker has confirmed all."""
        return self._left <= 0

    def confirm(self) -> None:
        """Note that one was confirmed."""
        self._left -= 1


@dataclass(frozen=True, slots=True)
class _Queued:
    special: Special
    slip: Slip | None = None


class Load:
    """Writes to each partition by itself, so that one that stands still does not hold up the others.

    Records have keys, and ids that are all different. What the broker did not confirm is not sent again:
    the audit judges what the topic holds.
    """

    def __init__(
        self, connection: Connection, topic: str, progress: Progress, *, rate: float, ahead: int, seed: int
    ) -> None:
        self.written: dict[int, int] = {}
        """The offset behind the last record of each partition that the broker has confirmed."""
        self.ended = asyncio.Event()
        self._connection = connection
        self._topic = topic
        self._progress = progress
        self._rate = rate
        self._ahead = ahead
        self._draw = random.Random(seed)
        self._specials: deque[_Queued] = deque()
        self._numbers = 0
        self._grown = asyncio.Event()

    @property
    def total(self) -> int:
        """How many records there are."""
        return sum(self.written.values())

    def add_partition(self) -> None:
        """Write to one partition more."""
        self.written[len(self.written)] = 0
        self._grown.set()

    def slip_in(self, specials: Sequence[Special]) -> Slip:
        """Send these as soon as records are sent at all, and again where the broker does not confirm them."""
        slip = Slip(len(specials))
        self._specials.extend(_Queued(special, slip) for special in specials)
        return slip

    async def run(self) -> None:
        """Write until the load is to end."""
        fed = 0
        async with asyncio.TaskGroup() as tasks:
            while not self.ended.is_set():
                for partition in range(fed, len(self.written)):
                    tasks.create_task(self._feed(partition))
                fed = len(self.written)
                self._grown.clear()
                await self._grown.wait()

    def end(self) -> None:
        """Write nothing more."""
        self.ended.set()
        self._grown.set()

    async def _feed(self, partition: int) -> None:
        async with contextlib.AsyncExitStack() as stack:
            while not self.ended.is_set():
                producer = await start_producer(
                    self._connection, batch_bytes=BATCH_BYTES, transactional_id=None
                )
                stack.push_async_callback(stop_producer, producer)
                with contextlib.suppress(KafkaError):
                    await self._feed_through(producer, partition)

    async def _feed_through(self, producer: Any, partition: int) -> None:
        due = monotonic()
        while not self.ended.is_set():
            await self._until_room(partition)
            queued = self._next_records()
            try:
                self.written[partition] = await self._send(producer, partition, queued)
            except BaseException:
                self._specials.extend(each for each in queued if each.slip)
                raise
            for each in queued:
                if each.slip:
                    each.slip.confirm()
            due = max(due + CHUNK * len(self.written) / self._rate, monotonic() - 1.0)
            await asyncio.sleep(max(0.0, due - monotonic()))

    async def _send(self, producer: Any, partition: int, queued: Sequence[_Queued]) -> int:
        """Return the offset behind the last of the records once the broker has confirmed them."""
        batch = producer.create_batch()
        for each in queued:
            self._append(batch, partition, each.special)
        sent = await producer.send_batch(batch, self._topic, partition=partition)
        sent.add_done_callback(lambda done: done.cancelled() or done.exception())
        confirmed = await sent
        return int(confirmed.offset) + len(queued)

    async def _until_room(self, partition: int) -> None:
        while (
            self.written[partition] - self._progress.finished[partition] > self._ahead
            and not self.ended.is_set()
        ):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(1.0):
                    await self._progress.changes()

    def _next_records(self) -> list[_Queued]:
        """Return a chunk, in which what is out of the ordinary has neighbours on either side."""
        specials = [self._specials.popleft() for _ in range(min(CHUNK - 2, len(self._specials)))]
        ordinary = [self._ordinary() for _ in range(CHUNK - len(specials))]
        middle = len(ordinary) // 2
        return [*ordinary[:middle], *specials, *ordinary[middle:]]

    def _ordinary(self) -> _Queued:
        return _Queued(Special("x" * self._draw.randrange(1, LONGEST_TEXT)))

    def _append(self, batch: Any, partition: int, special: Special) -> None:
        self._numbers += 1
        key = special.key or b"key-%d-%d" % (partition, self._draw.randrange(KEYS))
        appended = batch.append(
            timestamp=special.timestamp_ms,
            key=key,
            value=msgpack.packb({"text": f"{self._numbers} {special.text}"}),
            headers=[("ce_id", b"%d" % self._numbers)],
        )
        assert appended is not None, "a chunk is much smaller than a batch may be"
