"""A broker as a child process: noida-db speaks Kafka's protocol and comes as one binary.

It is for trying out and for tests. It writes its whole state about once a second, so a broker that is
killed, rather than stopped, may forget the last of what it acknowledged; and it forgets transactions
that are open when it ends, so exactly once holds through the worker's restarts but not through its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import os
import signal
import socket
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import Self

import structlog

from stream_infer.errors import BusError, ConfigError

HOST = "127.0.0.1"
START_SECONDS = 20.0
STOP_SECONDS = 10.0
RETRY_SECONDS = 0.02
PORT_ATTEMPTS = 3

_LOG_NAME = "broker.log"
_DATA_DIR_TAKEN = "already running for"
_PORT_TAKEN = "already in use"
_GUARD = """
import ctypes, os, signal, sys
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG
if os.getppid() != int(sys.argv[1]):
    sys.exit("the parent is gone")
os.execv(sys.argv[2], sys.argv[2:])
"""
"""Runs in the child before the command takes its place: the kernel then stops the command, politely
so that it saves its data, even when this process is killed. Elsewhere than on Linux it would stay."""

log = structlog.get_logger(__name__)


class EmbeddedBroker:
    """A broker that lives as long as its context, on a loopback port that is free or asked for.

    With a data directory, topics and offsets are there again the next time.
    """

    def __init__(self, data_dir: Path | None = None, port: int = 0) -> None:
        self._data_dir = data_dir
        self._asked_port = port
        self._port = port
        self._temporary: TemporaryDirectory[str] | None = None
        self._process: asyncio.subprocess.Process | None = None

    async def __aenter__(self) -> Self:
        """Start the broker.

        Raises:
            ConfigError: noida-db is not installed, or the data directory or port cannot be used.
            BusError: the broker did not come up.
        """
        self._make_directory()
        try:
            await self.start()
        except BaseException:
            self._remove_temporary()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()
        self._remove_temporary()

    @property
    def bootstrap_servers(self) -> str:
        """Where the broker listens."""
        return f"{HOST}:{self._port}"

    @property
    def directory(self) -> Path:
        """Where the data lie."""
        if self._data_dir is not None:
            return self._data_dir
        if self._temporary is None:
            raise BusError("the embedded broker is not running")
        return Path(self._temporary.name)

    @property
    def pid(self) -> int:
        """The broker's process id."""
        if self._process is None:
            raise BusError("the embedded broker is not running")
        return self._process.pid

    async def start(self) -> None:
        """Start the broker on the same data, and on the same port after a stop."""
        binary = _find_binary()
        for attempt in range(1, PORT_ATTEMPTS + 1):
            self._port = self._port or free_port()
            fault = await self._try_start(binary)
            if fault is None:
                log.info("embedded_broker_started", bootstrap_servers=self.bootstrap_servers)
                return
            if _PORT_TAKEN not in fault or self._asked_port or attempt == PORT_ATTEMPTS:
                raise self._error(fault)
            self._port = 0

    async def stop(self, number: signal.Signals = signal.SIGTERM) -> None:
        """Stop the broker, which saves its data unless `number` is SIGKILL."""
        process, self._process = self._process, None
        if process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(number)
        try:
            await asyncio.wait_for(process.wait(), STOP_SECONDS)
        except TimeoutError:
            process.kill()
            await process.wait()

    async def exited(self) -> int:
        """Return the broker's exit status once it has ended."""
        return await self._process.wait() if self._process else 0

    async def _try_start(self, binary: Path) -> str | None:
        """Return None once the broker accepts connections, or what it said when it gave up."""
        if await self._accepts():
            return f"port {self._port} is {_PORT_TAKEN}"
        directory = self.directory
        command = ["start", "--only", "kafka", "--kafka-port", str(self._port), "--data-dir", str(directory)]
        log_file = directory / _LOG_NAME
        with log_file.open("ab") as output:
            said_before = output.tell()
            self._process = await asyncio.create_subprocess_exec(
                *guarded(str(binary), *command),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        try:
            async with asyncio.timeout(START_SECONDS):
                if await self._comes_up():
                    return None
        except BaseException as error:
            await self.stop(signal.SIGKILL)
            if isinstance(error, TimeoutError):
                raise BusError(f"the embedded broker did not listen on port {self._port} in time") from None
            raise
        self._process = None
        return log_file.read_bytes()[said_before:].decode(errors="replace")

    async def _comes_up(self) -> bool:
        process = self._process
        while process is not None and process.returncode is None:
            if await self._accepts():
                return True
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(process.wait(), RETRY_SECONDS)
        return False

    async def _accepts(self) -> bool:
        try:
            _, writer = await asyncio.open_connection(HOST, self._port)
        except OSError:
            return False
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
        return True

    def _make_directory(self) -> None:
        if self._data_dir is None:
            self._temporary = TemporaryDirectory(prefix="stream-infer-")
            return
        try:
            self._data_dir.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"kafka.data_dir: {self._data_dir} cannot be made: {error.strerror}") from error

    def _error(self, fault: str) -> ConfigError | BusError:
        if _DATA_DIR_TAKEN in fault:
            return ConfigError(f"kafka.data_dir: {self._data_dir} is in use by another embedded broker")
        if _PORT_TAKEN in fault:
            return ConfigError(f"kafka.embedded_port: port {self._port} is in use")
        return BusError(f"the embedded broker did not start: {fault.strip()[-500:]}")

    def _remove_temporary(self) -> None:
        if self._temporary is not None:
            self._temporary.cleanup()
            self._temporary = None


def guarded(*command: str) -> list[str]:
    """Return the command made such that it ends with this process, however that ends."""
    return [sys.executable, "-I", "-S", "-c", _GUARD, str(os.getpid()), *command]


def _find_binary() -> Path:
    spec = importlib.util.find_spec("noida_db")
    if spec is None or spec.origin is None:
        raise ConfigError(
            'kafka.bootstrap_servers: "embedded" needs noida-db, which comes with the extra `local`: '
            'pip install "stream-infer[local]"'
        )
    binary = Path(spec.origin).with_name("noida-db.exe" if os.name == "nt" else "noida-db")
    if not os.access(binary, os.X_OK):
        binary.chmod(0o755)
    return binary


def free_port() -> int:
    """Return a loopback port that nothing listens on at the moment."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])
