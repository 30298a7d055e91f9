"""Apache Kafka as a child process: one node in KRaft mode on loopback ports."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

from loadgen.kafka.node import KafkaNode, fetch
from stream_infer.bus.embedded import HOST, free_port

_PROPERTIES = """
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@{host}:{controller}
listeners={listeners},CONTROLLER://{host}:{controller}
advertised.listeners={listeners}
controller.listener.names=CONTROLLER
listener.security.protocol.map=CONTROLLER:PLAINTEXT,{protocols}
log.dirs={directory}/log
auto.create.topics.enable=false
offsets.topic.replication.factor=1
offsets.topic.num.partitions=4
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=4
transaction.abort.timed.out.transaction.cleanup.interval.ms=500
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
group.initial.rebalance.delay.ms=0
group.min.session.timeout.ms=1000
"""

PLAIN = "PLAINTEXT"


@dataclass(frozen=True, slots=True)
class Extras:
    """What a broker has beside its plain listener: others, each with its protocol, and what they need."""

    listeners: Mapping[str, str] = field(default_factory=dict)
    properties: str = ""
    java: tuple[str, ...] = ()
    format: tuple[str, ...] = ()
    """What the tool that formats its storage is told."""


NO_EXTRAS = Extras()


class KafkaProcess:
    """A broker with the same manners as `EmbeddedBroker`: stop and start keep data and port."""

    def __init__(self, directory: Path, extras: Extras = NO_EXTRAS) -> None:
        self._directory = directory
        self._extras = extras
        self._ports = {name: free_port() for name in (PLAIN, *extras.listeners)}
        self._controller = free_port()
        self._node = KafkaNode(directory, self._ports[PLAIN], java_options=extras.java)

    async def __aenter__(self) -> Self:
        await asyncio.to_thread(fetch)
        await self._format()
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop(signal.SIGKILL)

    @property
    def bootstrap_servers(self) -> str:
        """Where the broker listens."""
        return self.servers(PLAIN)

    def servers(self, listener: str) -> str:
        """Return where one of its listeners is."""
        return f"{HOST}:{self._ports[listener]}"

    async def start(self) -> None:
        """Start the broker and wait until it accepts connections."""
        await self._node.start()

    async def stop(self, number: signal.Signals = signal.SIGTERM) -> None:
        """End the broker, politely or not."""
        await self._node.stop(number)

    @property
    def _protocols(self) -> Mapping[str, str]:
        return {PLAIN: "PLAINTEXT", **self._extras.listeners}

    async def _format(self) -> None:
        text = _PROPERTIES.format(
            host=HOST,
            listeners=",".join(f"{name}://{HOST}:{port}" for name, port in self._ports.items()),
            protocols=",".join(f"{name}:{protocol}" for name, protocol in self._protocols.items()),
            controller=self._controller,
            directory=self._directory,
        )
        await self._node.format(text + self._extras.properties, *self._extras.format)
