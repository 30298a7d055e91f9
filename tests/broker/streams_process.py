"""The streams role as a child process of a test, with topics of its own, and a view of its passages."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import uuid
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import ClassVar, TypeVar

from stream_infer.bus.batches import OutRecord
from stream_infer.bus.client_codec import decode_dead_letter, encode_document
from stream_infer.bus.connection import Connection
from stream_infer.bus.follower import TopicFollower
from stream_infer.bus.publisher import Publisher
from stream_infer.bus.topics import TopicSpec, apply
from stream_infer.retrieval.passages import IndexedPassage, decode_passage
from stream_infer.schemas import DeadLetter

REPOSITORY = Path(__file__).parents[2]
PATIENCE = 120.0
STOP_SECONDS = 30.0

SETTINGS = """
[kafka]
bootstrap_servers = "{servers}"
session_timeout_ms = 6000
instance_id = "{name}"
[models.hashes]
kind = "embed"
source = "python:tests.broker.embedding_double:embedder"
precision = "fp32"
[streams.answer]
task = "answer"
input = "{name}-questions"
output = "{name}-answers"
dead_letters = "{name}-dead-letters"
model = "hashes"
[retrieval]
documents = "{name}-documents"
passages = "{name}-passages"
[side_streams]
application = "{name}"
model = "hashes"
"""

Passages = Mapping[tuple[str, int], IndexedPassage]
"""The passages that exist, by document and number."""


class StreamsProcess:
    """The role over topics of its own; started and ended as often as a test likes."""

    settings: ClassVar[str] = SETTINGS

    def __init__(self, connection: Connection, directory: Path) -> None:
        self.connection = connection
        self.name = f"streams-{uuid.uuid4().hex[:8]}"
        self.log_path = directory / f"{self.name}.log"
        self._settings_path = directory / f"{self.name}.toml"
        self._settings_path.write_text(
            self.settings.format(servers=connection.bootstrap_servers, name=self.name), encoding="utf-8"
        )
        self._process: asyncio.subprocess.Process | None = None

    @property
    def dead_letters(self) -> str:
        """Where bad documents go."""
        return f"{self.name}-dead-letters"

    async def make_topics(self, *, changelog_partitions: int = 4) -> None:
        """Create what the role needs."""
        changelog = f"{self.name}-passage-counts-changelog"
        partitions = {f"{self.name}-documents": 4, f"{self.name}-passages": 4, self.dead_letters: 1}
        await apply(
            self.connection,
            [
                TopicSpec(name=topic, description="", direction="internal", partitions=count, key="")
                for topic, count in {**partitions, changelog: changelog_partitions}.items()
            ],
        )

    async def start(self) -> None:
        """Start the process; returns without waiting for it to be ready."""
        with self.log_path.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "stream_infer", "streams", "--config", str(self._settings_path)),
                env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    async def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Send the signal, wait for the end and return the exit code."""
        assert self._process is not None
        if self._process.returncode is None:
            self._process.send_signal(number)
        return await self.wait()

    async def wait(self) -> int:
        """Return the exit code once the process has ended."""
        assert self._process is not None
        return await asyncio.wait_for(self._process.wait(), STOP_SECONDS)

    def version(self, document: str, text: str | None, title: str = "") -> OutRecord:
        """Return a version of a document of collection `tests`, to be put; None deletes it."""
        return encode_document(f"{self.name}-documents", document, text, collection="tests", title=title)

    async def put(self, *records: OutRecord) -> None:
        """Publish records in this order."""
        async with Publisher(self.connection) as publisher:
            await publisher.publish(records)

    async def dead_letter_of(self, key: bytes) -> DeadLetter:
        """Return the dead letter of the document with this key as soon as it is there."""
        async with asyncio.timeout(PATIENCE), TopicFollower(self.connection, [self.dead_letters]) as follower:
            async for records in follower:
                for record in records:
                    if record.key == key:
                        return decode_dead_letter(record)
        raise AssertionError("the topic ended")

    async def passages_until(self, is_reached: Callable[[Passages], bool]) -> Passages:
        """Return the passages as soon as they are as wanted, read from the beginning of the topic."""
        passages: dict[tuple[str, int], IndexedPassage] = {}
        try:
            async with asyncio.timeout(PATIENCE):
                async for key, value in self._passage_records():
                    _, document, number = key.decode().split("/")
                    if value is None:
                        passages.pop((document, int(number)), None)
                    else:
                        passages[document, int(number)] = decode_passage(key, value)
                    if is_reached(passages):
                        return passages
        except TimeoutError:
            raise AssertionError(f"{sorted(passages)}\n{self.log_path.read_text()[-3000:]}") from None
        raise AssertionError("the topic ended")

    async def _passage_records(self) -> AsyncIterator[tuple[bytes, bytes | None]]:
        async with TopicFollower(self.connection, [f"{self.name}-passages"]) as follower:
            async for records in follower:
                for record in records:
                    yield record.key or b"", record.value


_Role = TypeVar("_Role", bound=StreamsProcess)


@asynccontextmanager
async def running_streams(connection: Connection, directory: Path) -> AsyncIterator[StreamsProcess]:
    """Run the role over new topics while the context lasts."""
    async with running(StreamsProcess(connection, directory)) as role:
        yield role


@asynccontextmanager
async def running(role: _Role) -> AsyncIterator[_Role]:
    """Create the role's topics and run it while the context lasts."""
    await role.make_topics()
    await role.start()
    try:
        yield role
    finally:
        await role.end(signal.SIGKILL)
