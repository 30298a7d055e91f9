"""Apache Kafka as a child process: one node in KRaft mode on loopback ports."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

from stream_infer.bus.embedded import HOST, free_port, guarded

HERE = Path(__file__).parent
START_SECONDS = 120.0
STOP_SECONDS = 60.0
CLUSTER_ID = "c3RyZWFtLWluZmVyLTAwMQ"
"""Sixteen bytes in base64, as Kafka makes them. Not drawn at random: an id that begins with a dash,
as one in sixty-four does, is taken for an option."""

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
_JAVA = ("-Xmx400m", "-Xms128m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1")


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
        self._classpath = ""
        self._process: asyncio.subprocess.Process | None = None

    async def __aenter__(self) -> Self:
        self._classpath = await asyncio.to_thread(_classpath)
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
        with (self._directory / "broker.log").open("ab") as output:
            self._process = await asyncio.create_subprocess_exec(
                *guarded(
                    _java(),
                    *_JAVA,
                    *self._extras.java,
                    "-cp",
                    self._classpath,
                    "kafka.Kafka",
                    str(self._properties),
                ),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        async with asyncio.timeout(START_SECONDS):
            while not await self._accepts():
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._process.wait(), 0.1)
                    raise RuntimeError((self._directory / "broker.log").read_text()[-2_000:])

    async def stop(self, number: signal.Signals = signal.SIGTERM) -> None:
        """End the broker, politely or not."""
        process, self._process = self._process, None
        if process is not None:
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(number)
            await asyncio.wait_for(process.wait(), STOP_SECONDS)

    @property
    def _properties(self) -> Path:
        return self._directory / "server.properties"

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
        self._properties.write_text(text + self._extras.properties)
        tool = ("kafka.tools.StorageTool", "format", "-t", CLUSTER_ID, "-c", str(self._properties))
        formatting = await asyncio.create_subprocess_exec(
            *(_java(), *_JAVA, "-cp", self._classpath, *tool, *self._extras.format),
            stdout=asyncio.subprocess.DEVNULL,
        )
        if await formatting.wait():
            raise RuntimeError("Kafka could not format its storage")

    async def _accepts(self) -> bool:
        try:
            _, writer = await asyncio.open_connection(HOST, self._ports[PLAIN])
        except OSError:
            return False
        writer.close()
        with contextlib.suppress(OSError):  # a broker that is still starting may reset the connection
            await writer.wait_closed()
        return True


def _java(program: str = "java") -> str:
    home = os.environ.get("JAVA_HOME")
    return str(Path(home, "bin", program)) if home else _which(program)


def _which(program: str) -> str:
    found = subprocess.run(["which", program], capture_output=True, text=True, check=False)  # noqa: S603, S607 - a test's own tool
    return found.stdout.strip() or program


def _classpath() -> str:
    """Return the jars, fetched with Maven the first time."""
    jars = HERE / "target" / "jars"
    if not jars.is_dir():
        command = [_which("mvn"), "-q", "-B", "-f", str(HERE / "pom.xml"), "package"]
        subprocess.run(command, check=True)  # noqa: S603 - a test's own tool
    return f"{jars}/*"
