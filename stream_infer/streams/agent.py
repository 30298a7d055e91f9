"""How every side stream takes its records: in order, and committed by number once they are handled.

Faust's own commit counts what it acknowledges, and that includes records it dropped while stopping or
rebalancing. An agent here acknowledges nothing. It hands records to its handler until none waits, or
until it has `max_batch` of them; then the handler makes durable what it made of them, and then the
offsets of exactly those records are committed. What is not committed is read again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import faust

from stream_infer.schemas import Record


class Handler(Protocol):
    """What a side stream does with its records."""

    async def handle(self, record: Record) -> None:
        """Take a record; what comes of it need not be durable yet."""
        ...

    async def checkpoint(self) -> None:
        """Return once all that came of the records so far is durable."""
        ...

    def forget(self) -> None:
        """Drop what is not durable, and what was read from tables: the partitions go elsewhere."""
        ...


class Agent:
    """One side stream's agent.

    An exception that is no fault of the record leaves it uncommitted and is passed to `fail`: the
    process must then end, and the record is read again after the restart.
    """

    def __init__(
        self,
        app: faust.App,
        name: str,
        topics: Sequence[str],
        handler: Handler,
        *,
        max_batch: int,
        max_waiting: int,
        fail: Callable[[Exception], None],
    ) -> None:
        self._app = app
        self._handler = handler
        self._max_batch = max_batch
        self._fail = fail
        self._is_ending = False
        self._work = asyncio.Lock()
        self._last_offsets: dict[Any, int] = {}
        self._uncommitted: dict[Any, int] = {}
        self._batch = 0
        source = SourceTopic(
            app, topics=list(topics), key_type=bytes, value_type=bytes, acks=False, maxsize=max_waiting
        )
        app.agent(source, name=name, concurrency=1)(self._consume)

    async def drain(self) -> None:
        """Return once the record in work is done; no further one is begun."""
        self._is_ending = True
        async with self._work:
            pass

    async def hand_over(self) -> None:
        """Keep the partitions until the record in work is done, so that nobody writes old things late."""
        async with self._work:
            self._last_offsets.clear()
            self._uncommitted.clear()
            self._batch = 0
            self._handler.forget()

    async def _consume(self, stream: Any) -> None:
        async for event in stream.events():
            async with self._work:
                if not self._is_ending:
                    await self._take_or_fail(event.message, stream.channel)
            if self._is_ending:
                await asyncio.Event().wait()  # Until Faust ends the agent: nothing is taken any more.

    async def _take_or_fail(self, message: Any, waiting: Any) -> None:
        try:
            await self._take(message)
            if self._uncommitted and (self._batch >= self._max_batch or waiting.empty()):
                await self._commit()
        except Exception as error:  # noqa: BLE001 - the edge of the role: whatever it is, the process ends
            self._is_ending = True
            self._fail(error)

    async def _take(self, message: Any) -> None:
        """Handle a record.

        A record from before a rebalance is fetched again by whoever has its partition now, and one
        that Faust delivers twice is handled once.
        """
        is_stale = message.generation_id != self._app.consumer_generation_id
        if is_stale or message.offset <= self._last_offsets.get(message.tp, -1):
            return
        await self._handler.handle(to_record(message))
        self._last_offsets[message.tp] = message.offset
        self._uncommitted[message.tp] = message.offset + 1
        self._batch += 1

    async def _commit(self) -> None:
        await self._handler.checkpoint()
        consumer: Any = self._app.consumer
        await consumer._commit(self._uncommitted)  # noqa: SLF001 - this one names the records
        self._uncommitted = {}
        self._batch = 0


class SourceTopic(faust.Topic):
    """A topic whose buffer survives the resuming of the flow.

    At the start, and after a rebalance, Faust lets records in, then resumes the flow once the tables
    are back; resuming empties the buffers, and the records in them are not fetched again.
    """

    @property
    def queue(self) -> Any:
        """The records that wait for the agent."""
        if self._queue is None:
            self._queue = self.app.FlowControlQueue(maxsize=self.maxsize, clear_on_resume=False)
        return self._queue


def to_record(message: Any) -> Record:
    """Return a Faust message as the record it was read from."""
    headers = message.headers or ()
    pairs = headers.items() if isinstance(headers, Mapping) else headers
    return Record(
        topic=message.topic,
        partition=message.partition,
        offset=message.offset,
        timestamp_ms=round(message.timestamp * 1000),
        key=message.key,
        value=message.value,
        headers=tuple(pairs),
    )
