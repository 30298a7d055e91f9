"""Reading topics from outside: whole ones up to their present ends, and outcomes as they come.

From the service's bus comes how to make a consumer, which any reader may use and which knows nothing of
the service: noida-db names aborted transactions that are long over, so that a reader would skip committed
records of the same producer for ever; it answers idle readers at once; and other clients may write header
names that are not UTF-8. On Apache Kafka the first two change nothing.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterable, Mapping
from types import TracebackType
from typing import Any, Final, Self

from aiokafka import TopicPartition
from aiokafka.errors import KafkaError, OffsetOutOfRangeError

from loadgen.broker import Broker
from loadgen.verdict import Source, Span
from stream_infer.bus.consumer import Isolation, make_consumer, partitions_of, wait_until_settled

POLL_MS: Final = 500
STALL_SECONDS: Final = 60.0
"""How long a read may make no progress before it is given up."""


class ReadingError(Exception):
    """The topics cannot be read as asked; the message says why."""


async def unreachable(broker: Broker, error: KafkaError) -> str:
    """Return what to say of a broker whose client did not start: what is in the way, if that can be told."""
    return f"no broker answers at {broker.bootstrap_servers}: {await broker.obstacle() or error}"


class TopicReader:
    """Reads the committed records of topics without a group, so that it leaves no trace on the broker."""

    def __init__(self, broker: Broker, isolation: Isolation = "read_committed") -> None:
        self._broker = broker
        self._isolation = isolation
        self._consumer: Any = None

    async def __aenter__(self) -> Self:
        """Reach the broker.

        Raises:
            ReadingError: it is out of reach.
        """
        self._consumer = make_consumer(self._broker.arguments, isolation=self._isolation)
        try:
            await self._consumer.start()
        except KafkaError as error:
            await _stop(self._consumer)
            raise ReadingError(await unreachable(self._broker, error)) from error
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await _stop(self._consumer)

    async def spans(
        self, topics: Iterable[str], since: Mapping[Source, int] | None = None
    ) -> dict[Source, Span]:
        """Return where each partition begins and ends now, to be read from `since`, or from 0.

        Raises:
            ReadingError: a topic does not exist, or the broker does not answer.
        """
        try:
            targets = await self._targets(topics)
            begins = await self._consumer.beginning_offsets(targets)
            ends = await self._consumer.end_offsets(targets)
        except KafkaError as error:
            raise ReadingError(f"the broker does not say what the topics hold: {error!r}") from error
        firsts = {target: (since or {}).get((target.topic, target.partition), 0) for target in targets}
        return {
            (target.topic, target.partition): Span(
                firsts[target], max(firsts[target], begins[target]), ends[target]
            )
            for target in targets
        }

    async def settle(self, written: Mapping[Source, Span]) -> None:
        """Return once what was written is committed or aborted, or transactions count as left open.

        Raises:
            ReadingError: the broker does not answer.
        """
        try:
            await wait_until_settled(
                self._consumer, {TopicPartition(*source): span.end for source, span in written.items()}
            )
        except KafkaError as error:
            raise ReadingError(f"the broker does not say what is committed: {error!r}") from error

    async def read(self, spans: Mapping[Source, Span]) -> AsyncIterator[list[Any]]:
        """Give the records of the spans, each partition in order, and end.

        Raises:
            ReadingError: records were deleted meanwhile, or there is no progress.
        """
        ends = {TopicPartition(*source): span.end for source, span in spans.items() if span.begin < span.end}
        self._consumer.assign(list(ends))
        for target in ends:
            self._consumer.seek(target, spans[target.topic, target.partition].begin)
        moved = time.monotonic()
        while ends:
            records = [
                record for record in await self._next() if record.offset < ends.get(_target(record), 0)
            ]
            if records:
                yield records
            done = [target for target, end in ends.items() if await self._consumer.position(target) >= end]
            self._consumer.pause(*done)
            for target in done:
                del ends[target]
            moved = time.monotonic() if records or done else moved
            if time.monotonic() - moved > STALL_SECONDS:
                raise ReadingError(f"no progress for {STALL_SECONDS:g} s on {', '.join(map(str, ends))}")

    async def follow(self, spans: Mapping[Source, Span]) -> AsyncIterator[list[Any]]:
        """Give what comes after the spans, many records or none at a time; it does not end by itself.

        Raises:
            ReadingError: records were deleted before they were read.
        """
        self._consumer.assign([TopicPartition(*source) for source in spans])
        for source, span in spans.items():
            self._consumer.seek(TopicPartition(*source), span.end)
        while True:
            yield await self._next()

    async def _next(self) -> list[Any]:
        try:
            fetched = await self._consumer.getmany(timeout_ms=POLL_MS)
        except OffsetOutOfRangeError as error:
            raise ReadingError(f"records were deleted while they were read: {error}") from error
        except KafkaError as error:
            raise ReadingError(f"the broker does not give its records: {error!r}") from error
        return [record for records in fetched.values() for record in records]

    async def _targets(self, topics: Iterable[str]) -> list[TopicPartition]:
        asked = set(topics)
        if missing := asked - await self._consumer.topics():
            raise ReadingError(f"no such topic: {', '.join(sorted(missing))}")
        return await partitions_of(self._consumer, asked)


def _target(record: Any) -> TopicPartition:
    return TopicPartition(record.topic, record.partition)


async def _stop(consumer: Any) -> None:
    """Stop a consumer, also while it waits to ask a broker that is gone once more.

    In that case aiokafka ends as if its caller had been cancelled, with its connections still open.
    """
    stopping = asyncio.ensure_future(consumer.stop())
    await asyncio.wait({stopping})
    if stopping.cancelled():
        await consumer._client.close()  # noqa: SLF001 - what `stop` did not come to
    else:
        stopping.result()
