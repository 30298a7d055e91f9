"""The service as a child process of a test, to be asked, stopped and killed."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path
from types import TracebackType
from typing import Self

from stream_infer.bus.embedded import free_port
from stream_infer.web.probe import wait_until_ready

REPOSITORY = Path(__file__).parents[2]
START_SECONDS = 90.0
STOP_SECONDS = 30.0

SCORING_STREAM = """
[service]
group = "{group}"
drain_timeout_ms = 3000
[kafka]
bootstrap_servers = "{bootstrap_servers}"
session_timeout_ms = 6000
transaction_timeout_ms = 10000
[cache]
max_bytes = 0
[models.scorer]
kind = "classify"
source = "python:tests.broker.scoring_double:scorer"
precision = "fp32"
[streams.score]
task = "classify"
input = "{input}"
output = "{output}"
dead_letters = "{dead_letters}"
model = "scorer"
"""


class ServiceProcess:
    """One worker, started with the settings of a file; the context ends it."""

    def __init__(
        self, settings: str, directory: Path, *, name: str = "worker", instance_id: str = ""
    ) -> None:
        self.environment: dict[str, str] = {}
        """What the next start adds to this process's environment."""
        self.port = free_port()
        self.log_path = directory / f"{name}.log"
        self._settings_path = directory / f"{name}.toml"
        self._settings_path.write_text(settings, encoding="utf-8")
        self._instance_id = instance_id
        self._process: asyncio.subprocess.Process | None = None

    @property
    def pid(self) -> int:
        """The process id of the last start."""
        assert self._process is not None
        return self._process.pid

    @property
    def exit_code(self) -> int | None:
        """How the process ended, or None while it runs; a signal is negative."""
        return self._process.returncode if self._process else None

    @property
    def url(self) -> str:
        """Where its endpoints are."""
        return f"http://127.0.0.1:{self.port}"

    async def __aenter__(self) -> Self:
        """Start the process and wait until it is ready."""
        await self.start()
        try:
            await self.ready()
        except BaseException:
            await self.kill()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    async def start(self) -> None:
        """Start the process; returns without waiting for it to be ready."""
        environment = {
            **os.environ,
            "STREAM_INFER__WEB__PORT": str(self.port),
            "PYTHONPATH": str(REPOSITORY),
            **self.environment,
        }
        if self._instance_id:
            environment["STREAM_INFER__KAFKA__INSTANCE_ID"] = self._instance_id
        with self.log_path.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "stream_infer", "serve", "--config", str(self._settings_path)),
                env=environment,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    async def ready(self) -> None:
        """Return once the worker says that it is ready."""
        assert self._process is not None
        ready = asyncio.ensure_future(wait_until_ready(self.url, timeout=START_SECONDS))
        ended = asyncio.ensure_future(self._process.wait())
        await asyncio.wait({ready, ended}, return_when=asyncio.FIRST_COMPLETED)
        ended.cancel()
        if not ready.done() or ready.exception() is not None:
            ready.cancel()
            raise AssertionError(f"the worker is not ready\n{self.log_path.read_text()[-3000:]}")

    async def kill(self) -> None:
        """End the process as a crash of the machine would."""
        await self._end(signal.SIGKILL)

    async def stop(self) -> int:
        """Ask the process to drain and end; return its exit code."""
        return await self._end(signal.SIGTERM)

    async def ends(self) -> int:
        """Return the exit code once the process has ended by itself."""
        assert self._process is not None
        return await asyncio.wait_for(self._process.wait(), START_SECONDS)

    def send(self, number: signal.Signals) -> None:
        """Send a signal to the process."""
        assert self._process is not None
        self._process.send_signal(number)

    async def _end(self, number: signal.Signals) -> int:
        assert self._process is not None
        if self._process.returncode is None:
            self._process.send_signal(number)
        try:
            return await asyncio.wait_for(self._process.wait(), STOP_SECONDS)
        except TimeoutError:
            self._process.kill()
            await self._process.wait()
            raise AssertionError(f"the worker did not stop\n{self.log_path.read_text()[-3000:]}") from None
