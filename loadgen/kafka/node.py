"""One process of Apache Kafka, which lives on the settings and the data in a directory."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path

from stream_infer.bus.embedded import HOST, guarded

HERE = Path(__file__).parent
START_SECONDS = 120.0
STOP_SECONDS = 60.0
CLUSTER_ID = "c3RyZWFtLWluZmVyLTAwMQ"
"""Sixteen bytes in base64, as Kafka makes them. Not drawn at random: an id that begins with a dash,
as one in sixty-four does, is taken for an option."""

_JAVA = ("-Xms128m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1")
_STORAGE_TOOL = "kafka.tools.StorageTool"


class KafkaNode:
    """A node that is started, stopped, killed and started again on the same data and ports."""

    def __init__(
        self, directory: Path, port: int, *, heap_mb: int = 400, java_options: Sequence[str] = ()
    ) -> None:
        self.port = port
        self._java_options = java_options
        self._directory = directory
        self._heap_mb = heap_mb
        self._process: asyncio.subprocess.Process | None = None

    @property
    def log_path(self) -> Path:
        """What the node says."""
        return self._directory / "broker.log"

    @property
    def pid(self) -> int:
        """The process id of the last start."""
        assert self._process is not None  # noqa: S101 - a caller's mistake
        return self._process.pid

    @property
    def is_running(self) -> bool:
        """Whether the process is there, be it suspended."""
        return self._process is not None and self._process.returncode is None

    async def format(self, properties: str, *options: str) -> None:
        """Write the settings, and make the storage that they ask for."""
        self._properties.write_text(properties, encoding="utf-8")
        tool = (_STORAGE_TOOL, "format", "-t", CLUSTER_ID, "-c", str(self._properties), *options)
        formatting = await asyncio.create_subprocess_exec(
            *(java(), *self._options, *tool), stdout=asyncio.subprocess.DEVNULL
        )
        if await formatting.wait():
            raise RuntimeError("Kafka could not format its storage")

    async def launch(self) -> None:
        """Start the process, without waiting for it: a node of a cluster may need the others."""
        with self.log_path.open("ab") as output:
            self._process = await asyncio.create_subprocess_exec(
                *guarded(java(), *self._options, "kafka.Kafka", str(self._properties)),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    async def listening(self) -> None:
        """Return once the node accepts connections."""
        process = self._process
        assert process is not None  # noqa: S101 - a caller's mistake
        async with asyncio.timeout(START_SECONDS):
            while not await accepts(self.port):
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(process.wait(), 0.1)
                    raise RuntimeError(self.log_path.read_text()[-2_000:])

    async def start(self) -> None:
        """Start the node and wait until it accepts connections."""
        await self.launch()
        await self.listening()

    async def stop(self, number: signal.Signals = signal.SIGTERM) -> None:
        """End the node, politely or not."""
        process, self._process = self._process, None
        if process is not None:
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(number)
            await asyncio.wait_for(process.wait(), STOP_SECONDS)

    def send(self, number: signal.Signals) -> None:
        """Send the process a signal that it is to survive."""
        assert self._process is not None  # noqa: S101 - a caller's mistake
        self._process.send_signal(number)

    @property
    def _properties(self) -> Path:
        return self._directory / "server.properties"

    @property
    def _options(self) -> tuple[str, ...]:
        return (f"-Xmx{self._heap_mb}m", *_JAVA, *self._java_options, "-cp", classpath())


async def run_tool(main_class: str, *arguments: str) -> str:
    """Run one of Kafka's own tools and return what it says.

    Raises:
        RuntimeError: it failed.
    """
    process = await asyncio.create_subprocess_exec(
        *(java(), "-Xmx128m", *_JAVA[1:], "-cp", classpath(), main_class, *arguments),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output = (await process.communicate())[0].decode(errors="replace")
    if process.returncode:
        raise RuntimeError(f"{main_class} failed: {output[-2_000:]}")
    return output


async def accepts(port: int) -> bool:
    """Return whether something listens on a loopback port."""
    try:
        _, writer = await asyncio.open_connection(HOST, port)
    except OSError:
        return False
    writer.close()
    with contextlib.suppress(OSError):  # a broker that is still starting may reset the connection
        await writer.wait_closed()
    return True


def java() -> str:
    """Return the path of Java's own program, or its name where it is not to be found."""
    home = os.environ.get("JAVA_HOME")
    return str(Path(home, "bin", "java")) if home else shutil.which("java") or "java"


def classpath() -> str:
    """Return the jars, which `fetch` has brought."""
    return f"{HERE / 'target' / 'jars'}/*"


def fetch() -> None:
    """Fetch the jars with Maven, the first time."""
    if not (HERE / "target" / "jars").is_dir():
        command = ["mvn", "-q", "-B", "-f", str(HERE / "pom.xml"), "package"]
        subprocess.run(command, check=True)  # noqa: S603 - a test's own tool
