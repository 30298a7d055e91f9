"""A broker of its own for a test or a bench: the embedded one, or Apache Kafka as one node or three."""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final, Protocol

from loadgen.kafka.cluster import KafkaCluster
from loadgen.kafka.process import KafkaProcess
from stream_infer.bus.embedded import EmbeddedBroker

EMBEDDED: Final = "embedded"
KAFKA: Final = "kafka"
KAFKA3: Final = "kafka3"
KINDS: Final = (EMBEDDED, KAFKA, KAFKA3)


class Broker(Protocol):
    """What every broker can do."""

    @property
    def bootstrap_servers(self) -> str:
        """Where it listens."""
        ...

    async def start(self) -> None:
        """Start again, on the same data and port."""
        ...

    async def stop(self, number: signal.Signals = signal.SIGTERM) -> None:
        """End, politely or not."""
        ...


@asynccontextmanager
async def running_broker(kind: str, directory: Path) -> AsyncIterator[Broker]:
    """Run a broker that keeps its data in `directory`, while the context lasts."""
    if kind == KAFKA:
        async with KafkaProcess(directory) as kafka:
            yield kafka
    elif kind == KAFKA3:
        async with KafkaCluster(directory) as cluster:
            yield cluster
    else:
        async with EmbeddedBroker(directory) as embedded:
            yield embedded
