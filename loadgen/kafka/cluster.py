"""Apache Kafka as several child processes: nodes that replicate everything, on loopback ports."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from loadgen.kafka.node import KafkaNode, fetch
from stream_infer.bus.embedded import HOST, free_port

SIZE: Final = 3
HEAP_MB: Final = 320

_PROPERTIES = """
process.roles=broker,controller
node.id={node}
controller.quorum.voters={voters}
listeners=CLIENTS://{host}:{port},NODES://{host}:{internal},CONTROLLER://{host}:{controller}
advertised.listeners=CLIENTS://{host}:{advertised},NODES://{host}:{internal}
inter.broker.listener.name=NODES
controller.listener.names=CONTROLLER
listener.security.protocol.map=CONTROLLER:PLAINTEXT,CLIENTS:PLAINTEXT,NODES:PLAINTEXT
log.dirs={directory}/log
auto.create.topics.enable=false
default.replication.factor={size}
min.insync.replicas={in_sync}
offsets.topic.replication.factor={size}
offsets.topic.num.partitions=4
transaction.state.log.replication.factor={size}
transaction.state.log.min.isr={in_sync}
transaction.state.log.num.partitions=4
transaction.abort.timed.out.transaction.cleanup.interval.ms=500
share.coordinator.state.topic.replication.factor={size}
share.coordinator.state.topic.min.isr={in_sync}
group.initial.rebalance.delay.ms=0
group.min.session.timeout.ms=1000
broker.session.timeout.ms=3000
broker.heartbeat.interval.ms=500
replica.lag.time.max.ms=4000
leader.imbalance.check.interval.seconds=2
leader.imbalance.per.broker.percentage=0
"""
"""Nodes are missed, and get their leaderships back, in seconds instead of minutes."""


class KafkaCluster:
    """Nodes that are brokers and controllers at once; whoever has one node down loses nothing.

    Clients are told to reach node n at `advertised[n]`, where something may stand between; unless told
    otherwise at its own port. `direct_servers` is the way around that.
    """

    def __init__(
        self, directory: Path, *, size: int = SIZE, ports: Sequence[int] = (), advertised: Sequence[int] = ()
    ) -> None:
        self._directory = directory
        self._ports = list(ports) or [free_port() for _ in range(size)]
        self._advertised = list(advertised) or self._ports
        self._internal = [free_port() for _ in range(size)]
        self._controllers = [free_port() for _ in range(size)]
        self.nodes = [
            KafkaNode(directory / f"node-{number}", port, heap_mb=HEAP_MB)
            for number, port in enumerate(self._ports, start=1)
        ]
        """In the order of their ids, which begin with 1."""

    async def __aenter__(self) -> Self:
        await asyncio.to_thread(fetch)
        await asyncio.gather(*(self._format(place) for place in range(len(self.nodes))))
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop(signal.SIGKILL)

    @property
    def bootstrap_servers(self) -> str:
        """Where clients reach the cluster."""
        return _addresses(self._advertised)

    @property
    def direct_servers(self) -> str:
        """Where nothing stands between."""
        return _addresses(self._internal)

    async def start(self) -> None:
        """Start every node and wait until each accepts connections."""
        for node in self.nodes:
            await node.launch()
        await asyncio.gather(*(node.listening() for node in self.nodes))

    async def stop(self, number: signal.Signals = signal.SIGTERM) -> None:
        """End every node, politely or not."""
        await asyncio.gather(*(node.stop(number) for node in self.nodes))

    async def _format(self, place: int) -> None:
        directory = self._directory / f"node-{place + 1}"
        directory.mkdir(parents=True)
        size = len(self.nodes)
        text = _PROPERTIES.format(
            node=place + 1,
            host=HOST,
            port=self._ports[place],
            advertised=self._advertised[place],
            internal=self._internal[place],
            controller=self._controllers[place],
            voters=",".join(f"{n}@{HOST}:{port}" for n, port in enumerate(self._controllers, start=1)),
            directory=directory,
            size=size,
            in_sync=max(1, size - 1),
        )
        await self.nodes[place].format(text)


def _addresses(ports: Sequence[int]) -> str:
    return ",".join(f"{HOST}:{port}" for port in ports)
