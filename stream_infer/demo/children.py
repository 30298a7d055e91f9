"""The service's two roles as child processes, as an operator would run them."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

from stream_infer.errors import StreamInferError

_STOP_TIMEOUT_S = 15.0


class Role:
    """A role of the service in a process of its own, whose log goes to a file."""

    def __init__(self, name: str, process: asyncio.subprocess.Process, log_path: Path) -> None:
        self.name = name
        self.log_path = log_path
        self._process = process

    async def watch(self) -> None:
        """Return never; raise as soon as the process ends."""
        code = await self._process.wait()
        raise StreamInferError(f"{self.name} ended with exit code {code}; its log is {self.log_path}")

    async def stop(self) -> int:
        """Ask the process to drain and end; kill it when it does not. Returns its exit code."""
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(_STOP_TIMEOUT_S):
                return await self._process.wait()
        except TimeoutError:
            self._process.kill()
            return await self._process.wait()


@contextlib.asynccontextmanager
async def run_role(name: str, environment: Mapping[str, str], log_path: Path) -> AsyncIterator[Role]:
    """Run `stream-infer NAME` while the context lasts."""
    with log_path.open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "stream_infer",
            name,
            env={**os.environ, **environment},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,  # Ctrl-C reaches the demo alone, which then stops its roles in order
        )
    role = Role(name, process, log_path)
    try:
        yield role
    finally:
        await role.stop()
