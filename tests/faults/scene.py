"""Where faults strike: brokers, topics, a group of workers, and the load that they carry meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from loadgen.kafka.brokers import EMBEDDED
from stream_infer.bus.connection import Connection, connect
from stream_infer.bus.topics import TopicSpec, apply
from stream_infer.config import KafkaSettings
from tests.faults.admin import set_topic
from tests.faults.brokers import Brokers, running_brokers
from tests.faults.load import Load
from tests.faults.progress import Progress, watched
from tests.faults.workers import SETTINGS, Workers, running_workers

INPUT: Final = "requests"
OUTPUT: Final = "results"
DEAD_LETTERS: Final = "dead-letters"
ELSEWHERE: Final = "elsewhere"
"""A second input, which only workers with other settings know."""
OUTPUTS: Final = (OUTPUT, DEAD_LETTERS)

_FOR_EVER: Final = -1
_DEAD_LETTER_BYTES: Final = 2_097_152
_ANY_TIME: Final = {"message.timestamp.after.max.ms": "9223372036854775807"}
_WAIT_PAUSE: Final = 0.1


class NotRealError(AssertionError):
    """A fault left no trace where it should have, so that nothing was tried."""


@dataclass(frozen=True, slots=True)
class Conditions:
    """How large a scene is, and how hard it is used."""

    workers: int = 2
    partitions: int = 3
    rate: float = 1_000.0
    """Records a second, as long as the workers keep up."""
    ahead: int = 1_500
    """Records of each partition that may wait for their outcome."""
    outage_s: float = 5.0
    """How long all brokers are gone, where they are."""


@dataclass(frozen=True, slots=True)
class Scene:
    """What a fault may lay hands on."""

    brokers: Brokers
    direct: Connection
    workers: Workers
    load: Load
    progress: Progress
    conditions: Conditions
    directory: Path


@asynccontextmanager
async def set_scene(kind: str, directory: Path, conditions: Conditions, seed: int) -> AsyncIterator[Scene]:
    """Have everything up and the load going while the context lasts."""
    async with running_brokers(kind, directory / "brokers") as brokers:
        direct = connect(KafkaSettings(), brokers.direct_servers)
        await _make_topics(direct, kind, conditions.partitions)
        settings = SETTINGS.format(
            group="under-test",
            bootstrap_servers=brokers.bootstrap_servers,
            input=INPUT,
            output=OUTPUT,
            dead_letters=DEAD_LETTERS,
        )
        async with (
            watched(direct, OUTPUTS) as progress,
            running_workers(settings, directory, conditions.workers) as workers,
        ):
            load = Load(direct, INPUT, progress, rate=conditions.rate, ahead=conditions.ahead, seed=seed)
            for _ in range(conditions.partitions):
                load.add_partition()
            loading = asyncio.create_task(load.run())
            try:
                yield Scene(brokers, direct, workers, load, progress, conditions, directory)
            finally:
                loading.cancel()
                await asyncio.gather(loading, return_exceptions=True)


async def until(holds: Callable[[], Awaitable[bool]], what: str, patience: float = 20.0) -> None:
    """Return once something can be seen that shows a fault to be real.

    Raises:
        NotRealError: it cannot be seen within `patience` seconds.
    """
    try:
        async with asyncio.timeout(patience):
            while not await holds():  # noqa: ASYNC110 - other processes set no event
                await asyncio.sleep(_WAIT_PAUSE)
    except TimeoutError:
        raise NotRealError(f"not within {patience:g} s: {what}") from None


async def _make_topics(connection: Connection, kind: str, partitions: int) -> None:
    def spec(name: str, count: int, max_message_bytes: int = 1_048_588) -> TopicSpec:
        return TopicSpec(
            name=name,
            description="",
            direction="internal",
            partitions=count,
            key="",
            retention_ms=_FOR_EVER,
            max_message_bytes=max_message_bytes,
        )

    specs = [
        spec(INPUT, partitions),
        spec(ELSEWHERE, 1),
        spec(OUTPUT, 4),
        spec(DEAD_LETTERS, 4, _DEAD_LETTER_BYTES),
    ]
    await apply(connection, specs)
    if kind != EMBEDDED:
        await set_topic(connection, INPUT, _ANY_TIME)
