"""The service's side of a replica's processes: starting, asking, killing and burying them.

What runs in them is in `worker`.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
from asyncio import StreamReader, StreamWriter
from asyncio.subprocess import DEVNULL, Process
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

from stream_infer.engine.specs import ModelSpec
from stream_infer.engine.wire import Message, encode_spec, pack_frame, read_frame, receive_frame, send_frame
from stream_infer.errors import ConfigError, ReplicaDiedError

_WORKER: Final = "stream_infer.engine.worker"
_STDERR: Final = 2
_ENVIRONMENT: Final = {
    # A process that has run OpenMP threads cannot fork children that do.
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    # Threads that spin while they wait take the cores from the loop process.
    "OMP_WAIT_POLICY": "PASSIVE",
    "TOKENIZERS_PARALLELISM": "false",
    # Counting GPUs through their driver's monitor leaves CUDA untouched for the children.
    "PYTORCH_NVML_BASED_CUDA_CHECK": "1",
    "TRANSFORMERS_VERBOSITY": "error",
}


@dataclass(frozen=True, slots=True)
class NurseryProcess:
    """The process that holds loaded models and forks the children that serve them."""

    process: Process
    control: socket.socket

    @classmethod
    async def start(cls, models: Sequence[ModelSpec], threads: int) -> Self:
        """Start a nursery and have it load the models that a fork carries.

        Raises:
            ConfigError: a model cannot be loaded.
            ReplicaDiedError: the process ended while loading.
        """
        ours, theirs = socket.socketpair()
        with theirs:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", _WORKER, str(theirs.fileno())),
                stdin=DEVNULL,
                stdout=_STDERR,
                pass_fds=[theirs.fileno()],
                env=os.environ | _ENVIRONMENT | {"PYTHONPATH": _import_path()},
            )
        nursery = cls(process, ours)
        try:
            order = {"order": "load", "models": [encode_spec(spec) for spec in models], "threads": threads}
            _raise_if_refused(await nursery._ask(order))
        except BaseException:
            await nursery.stop()
            raise
        return nursery

    async def fork(self) -> tuple[ChildProcess, Message]:
        """Return a new child that serves all models, and its first message, with `infos`.

        Raises:
            ConfigError: a model that a fork does not carry cannot be loaded.
            ReplicaDiedError: the nursery or the child ended.
        """
        ours, theirs = socket.socketpair()
        with theirs:
            reply = await self._ask({"order": "fork"}, theirs)
        if reply is None:
            ours.close()
            raise ReplicaDiedError("the replica's nursery ended")
        reader, writer = await asyncio.open_connection(sock=ours)
        child = ChildProcess(reply["pid"], reader, writer)
        try:
            first = await child.receive()
            _raise_if_refused(first)
        except (ConfigError, ReplicaDiedError):
            await self.bury(child)
            raise
        except BaseException:
            child.kill()
            raise
        return child, first or {}

    async def bury(self, child: ChildProcess) -> str:
        """Kill a child if it still lives, wait for its end, and say in words how it ended."""
        child.kill()
        reply = await self._ask({"order": "reap", "pid": child.pid})
        return "ended with its nursery" if reply is None else _in_words(reply["status"])

    async def stop(self) -> None:
        """Kill the nursery; the kernel kills its child with it."""
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()
        await self.process.wait()
        self.control.close()

    async def _ask(self, order: Message, beside: socket.socket | None = None) -> Message | None:
        # Orders are rare and short, or as long as loading models: a thread may block on them. Killing
        # the nursery ends the wait.
        return await asyncio.to_thread(_ask_blocking, self.control, order, beside)


class ChildProcess:
    """A forked child: batches in, answers out, in the same order."""

    def __init__(self, pid: int, reader: StreamReader, writer: StreamWriter) -> None:
        self.pid = pid
        self._reader = reader
        self._writer = writer
        self._is_killed = False

    @property
    def is_killed(self) -> bool:
        """Whether it was killed from here, so that nothing more is to be expected of it."""
        return self._is_killed

    @property
    def is_alive(self) -> bool:
        """Whether the child can be asked; a death may be noticed only by asking."""
        return not self._is_killed and not self._reader.at_eof()

    @property
    def resident_bytes(self) -> int:
        """Memory that the child holds, what it shares with its nursery included; 0 once it has ended."""
        try:
            pages = Path(f"/proc/{self.pid}/statm").read_text(encoding="ascii").split()[1]
        except (FileNotFoundError, ProcessLookupError):
            return 0
        return int(pages) * os.sysconf("SC_PAGE_SIZE")

    def send(self, message: Message) -> None:
        """Put a message in the child's way, which it takes up after those before it."""
        self._writer.write(pack_frame(message))

    async def receive(self) -> Message | None:
        """Return the child's next message, or None when it ended instead."""
        return await read_frame(self._reader)

    def kill(self) -> None:
        """Kill the child at once; it stays in the process table until it is buried."""
        if not self._is_killed:
            self._is_killed = True
            self._writer.close()
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)


def _import_path() -> str:
    # What this process can import, the other must find too.
    return os.pathsep.join(path or "." for path in sys.path)


def _ask_blocking(control: socket.socket, order: Message, beside: socket.socket | None) -> Message | None:
    try:
        send_frame(control, order)
        if beside is not None:
            socket.send_fds(control, [b"\0"], [beside.fileno()])
        return receive_frame(control)
    except OSError:
        return None


def _raise_if_refused(reply: dict[str, Any] | None) -> None:
    if reply is None:
        raise ReplicaDiedError("the replica ended while loading its models")
    if "error" in reply:
        raise ConfigError(reply["error"])


def _in_words(status: int) -> str:
    if os.WIFSIGNALED(status):
        return f"was killed by {signal.Signals(os.WTERMSIG(status)).name}"
    return f"exited with {os.waitstatus_to_exitcode(status)}"
