"""Reading whole topics without a group: compacted topics from their beginning, results from now on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Collection
from types import TracebackType
from typing import Any, Literal, Self

import structlog
from aiokafka import TopicPartition
from aiokafka.errors import KafkaError, OffsetOutOfRangeError

from stream_infer.bus.connection import REACH_BACKOFF, REFUSALS, Connection, bus_error
from stream_infer.bus.consumer import make_consumer, partitions_of, wait_until_settled
from stream_infer.bus.source import to_record
from stream_infer.bus.topics import require
from stream_infer.schemas import Record

POLL_MS = 1_000
"""How long one wait for records lasts; records end it at once."""

MAX_PAUSE = 5.0
"""Seconds before the broker is asked again, at most, while it answers with nothing but errors."""

log = structlog.get_logger(__name__)


class TopicFollower:
    """All committed records of some topics, in each partition's order, and then those that come.

    `caught_up` is set once everything that was there at the start has been handled, that is when
    the next records are asked for. The broker may go away and come back meanwhile.
    """

    def __init__(
        self,
        connection: Connection,
        topics: Collection[str],
        *,
        start: Literal["beginning", "end"] = "beginning",
        settles: bool = False,
    ) -> None:
        """With `settles` the start waits, for a bounded time, for transactions that are open then."""
        self.caught_up = asyncio.Event()
        self._connection = connection
        self._topics = sorted(topics)
        self._start = start
        self._settles = settles
        self._consumer: Any = None
        self._ends: dict[TopicPartition, int] = {}
        self._pause, self._known = REACH_BACKOFF, ""

    async def __aenter__(self) -> Self:
        """Fix where to begin: records written from here on are seen.

        Raises:
            ConfigError: a topic does not exist.
            BusError: the broker is out of reach or refuses.
        """
        await require(self._connection, self._topics)
        self._consumer = make_consumer(self._connection.arguments)
        try:
            await self._consumer.start()
            await self._begin()
        except BaseException as error:
            await self._consumer.stop()
            if isinstance(error, KafkaError):
                raise bus_error(f"cannot follow {', '.join(self._topics)}", error) from error
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._consumer.stop()

    async def __aiter__(self) -> AsyncIterator[list[Record]]:
        """Give the records as they come, many at a time; it does not end by itself.

        Raises:
            AccessRefusedError: the broker does not let this client read a topic.
        """
        while True:
            if not self.caught_up.is_set():
                await self._note_progress()
            records = await self._next()
            if records:
                yield records

    async def _begin(self) -> None:
        targets = await partitions_of(self._consumer, self._topics)
        if self._settles:
            await self._settle(targets)
        self._consumer.assign(targets)
        self._ends = await self._consumer.end_offsets(targets)
        begins = self._ends if self._start == "end" else await self._consumer.beginning_offsets(targets)
        for target, offset in begins.items():
            self._consumer.seek(target, offset)

    async def _settle(self, targets: list[TopicPartition]) -> None:
        async with make_consumer(self._connection.arguments, isolation="read_uncommitted") as everything:
            written = await everything.end_offsets(targets)
        if not await wait_until_settled(self._consumer, written):
            log.warning("transactions_left_open", topics=self._topics)

    async def _note_progress(self) -> None:
        positions = [await self._consumer.position(target) >= end for target, end in self._ends.items()]
        if all(positions):
            self.caught_up.set()

    async def _next(self) -> list[Record]:
        try:
            fetched = await self._consumer.getmany(timeout_ms=POLL_MS)
        except OffsetOutOfRangeError as error:
            await self._return_into_range(error.args[0])
            return []
        except REFUSALS as error:
            raise bus_error(f"cannot follow {', '.join(self._topics)}", error) from error
        except KafkaError as error:
            await self._back_off(error)
            return []
        self._pause, self._known = REACH_BACKOFF, ""
        return [to_record(message) for messages in fetched.values() for message in messages]

    async def _back_off(self, error: KafkaError) -> None:
        """Wait, each time longer; what is wrong is said once, until it is something else."""
        if str(error) != self._known:
            log.warning("follow_failed", topics=self._topics, error=str(error))
        self._known = str(error)
        await asyncio.sleep(self._pause)
        self._pause = min(self._pause * 2, MAX_PAUSE)

    async def _return_into_range(self, positions: dict[TopicPartition, int]) -> None:
        """Go on from the oldest record that is left; a follower only ever wants what is there."""
        for target, position in positions.items():
            log.warning(
                "follow_out_of_range", topic=target.topic, partition=target.partition, position=position
            )
            await self._consumer.seek_to_beginning(target)


async def read_present(
    connection: Connection, topics: Collection[str], take: Callable[[list[Record]], None]
) -> None:
    """Hand the committed records that the topics hold now to `take`, and return.

    Transactions that are open are waited for, for a bounded time: Kafka answers a commit before it has
    marked it on the partitions, and until then what was committed cannot be read.

    Raises:
        ConfigError: a topic does not exist.
        BusError: the broker is out of reach or refuses.
    """
    async with TopicFollower(connection, topics, settles=True) as follower, asyncio.TaskGroup() as tasks:
        reading = tasks.create_task(_hand_over(follower, take))
        await follower.caught_up.wait()
        reading.cancel()


async def _hand_over(follower: TopicFollower, take: Callable[[list[Record]], None]) -> None:
    async for records in follower:
        take(records)
