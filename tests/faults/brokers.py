"""The brokers that faults befall: one embedded, one of Apache Kafka, or three, with proxies before them."""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from loadgen.kafka.brokers import EMBEDDED, KAFKA3
from loadgen.kafka.cluster import SIZE, KafkaCluster
from stream_infer.bus.embedded import EmbeddedBroker, free_port
from tests.faults.proxy import Proxy


class Node(Protocol):
    """One broker, which keeps its data and its port."""

    async def start(self) -> None:
        """Start it and wait until it accepts connections."""
        ...

    async def stop(self, number: signal.Signals = signal.SIGTERM) -> None:
        """End it, politely or not."""
        ...


@dataclass(frozen=True, slots=True)
class Brokers:
    """What clients use, what faults befall, and the way around the proxies for those who watch."""

    kind: str
    bootstrap_servers: str
    direct_servers: str
    nodes: Sequence[Node]
    proxies: Sequence[Proxy]
    cluster: KafkaCluster | None = None

    @property
    def is_replicated(self) -> bool:
        """Whether one node can be down and nothing is out of reach."""
        return len(self.nodes) > 1


@asynccontextmanager
async def running_brokers(kind: str, directory: Path) -> AsyncIterator[Brokers]:
    """Run brokers of a kind, while the context lasts; there is no proxy before the embedded one.

    It tells its clients its own port alone, so they would go around.
    """
    async with AsyncExitStack() as stack:
        if kind == EMBEDDED:
            broker = await stack.enter_async_context(EmbeddedBroker(directory))
            servers = broker.bootstrap_servers
            yield Brokers(kind, servers, servers, [broker], [])
            return
        ports = [free_port() for _ in range(SIZE if kind == KAFKA3 else 1)]
        proxies = [await stack.enter_async_context(Proxy(port)) for port in ports]
        cluster = KafkaCluster(
            directory, size=len(ports), ports=ports, advertised=[proxy.port for proxy in proxies]
        )
        await stack.enter_async_context(cluster)
        yield Brokers(
            kind, cluster.bootstrap_servers, cluster.direct_servers, cluster.nodes, proxies, cluster
        )
