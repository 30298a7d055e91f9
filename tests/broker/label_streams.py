"""The streams role over results and feedback of its own, and a view of its trends and quality."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import msgpack
from aiokafka import AIOKafkaProducer

from stream_infer.bus.codec import ResultEncoder
from stream_infer.bus.follower import TopicFollower
from stream_infer.bus.topics import TopicSpec, apply
from stream_infer.config import StreamSettings
from stream_infer.schemas import ModelInfo, Record, Result, Task
from tests.broker.streams_process import PATIENCE, StreamsProcess

STREAM = "posts"
PARTITIONS = 4
WINDOW_MS = 1_000
GRACE_MS = 500
MODEL = ModelInfo("mood", "builtin", "r1", "int8", "cpu", 128)

Bodies = Mapping[bytes, Mapping[str, Any]]
"""The last record of each key."""


@dataclass(frozen=True, slots=True)
class Given:
    """A label that the worker of a test gave."""

    id: str
    label: str
    timestamp_ms: int | None = None
    body: dict[str, object] = field(default_factory=dict)


class LabelStreams(StreamsProcess):
    """The role with a classify stream alone: it loads no model."""

    settings = """
[kafka]
bootstrap_servers = "{servers}"
session_timeout_ms = 6000
instance_id = "{name}"
[streams.posts]
task = "classify"
input = "{name}-requests"
output = "{name}-results"
dead_letters = "{name}-dead-letters"
model = "sentiment"
[side_streams]
application = "{name}"
feedback = "{name}-feedback"
observations = "{name}-observations"
trends = "{name}-trends"
quality = "{name}-quality"
trend_window_ms = 1000
trend_grace_ms = 500
"""

    @property
    def stream(self) -> StreamSettings:
        """The stream whose results are counted."""
        return StreamSettings(
            task=Task.CLASSIFY,
            input=self.topic("requests"),
            output=self.topic("results"),
            dead_letters=self.dead_letters,
            model="sentiment",
        )

    def topic(self, name: str) -> str:
        """Return this role's own topic of that name."""
        return f"{self.name}-{name}"

    async def make_topics(self, *, observation_partitions: int = 1, **_counts: int) -> None:
        """Create what the role needs."""
        partitions = {
            "requests": 1,
            "results": PARTITIONS,
            "feedback": PARTITIONS,
            "dead-letters": 1,
            "observations": observation_partitions,
            "trends": 1,
            "quality": 1,
            "trend-windows-changelog": 1,
            "quality-statements-changelog": 1,
        }
        await apply(
            self.connection,
            [
                TopicSpec(
                    name=self.topic(name), description="", direction="internal", partitions=count, key=""
                )
                for name, count in partitions.items()
            ],
        )

    @asynccontextmanager
    async def worker(self) -> AsyncIterator[Worker]:
        """Give what writes results as a worker does."""
        identity = f"{self.name}-worker"
        async with AIOKafkaProducer(**self.connection.arguments, transactional_id=identity) as producer:
            yield Worker(producer, ResultEncoder(self.stream, MODEL, STREAM))

    async def bodies_until(self, name: str, is_reached: Callable[[Bodies], bool]) -> Bodies:
        """Return the last bodies of a topic as soon as they are as wanted, read from its beginning."""
        bodies: dict[bytes, Mapping[str, Any]] = {}
        try:
            async with (
                asyncio.timeout(PATIENCE),
                TopicFollower(self.connection, [self.topic(name)]) as follower,
            ):
                async for records in follower:
                    for record in records:
                        bodies[record.key or b""] = msgpack.unpackb(record.value or b"")
                    if is_reached(bodies):
                        return bodies
        except TimeoutError:
            raise AssertionError(f"{bodies}\n{self.log_path.read_text()[-3000:]}") from None
        raise AssertionError("the topic ended")


@dataclass(frozen=True, slots=True)
class Worker:
    """Writes results in transactions."""

    producer: Any
    encoder: ResultEncoder

    async def write(self, given: Sequence[Given], *, is_aborted: bool = False) -> None:
        """Write the results in one transaction, each to the partition that its id has."""
        await self.producer.begin_transaction()
        for item in given:
            source = Record("requests", 0, 0, 0, item.id.encode(), None)
            body = item.body or {"label": item.label, "score": 0.9, "scores": {item.label: 0.9}}
            out = self.encoder.encode(Result(source, item.id, STREAM, body, MODEL.name))
            await self.producer.send(
                out.topic, out.value, out.key, headers=out.headers, timestamp_ms=item.timestamp_ms
            )
        await (self.producer.abort_transaction() if is_aborted else self.producer.commit_transaction())
