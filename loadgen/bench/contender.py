"""The bench's side of a contender: its process, and what is asked of it."""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from loadgen.bench.child import decode_outputs
from loadgen.peers.setup import Setup
from stream_infer.engine.wire import Message, receive_frame, send_frame

ROOT: Final = Path(__file__).parents[2]
PATIENCE: Final = 900.0
"""Seconds after which a contender that does not answer is given up."""
_LAST_SECONDS: Final = 10.0


class ContenderError(Exception):
    """A contender cannot be installed, loaded or run; the message says why."""


def child_environment(threads: int) -> dict[str, str]:
    """Return the environment of whoever competes: this checkout, no hub, and so many threads."""
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
        "OMP_NUM_THREADS": str(threads),
        "MKL_NUM_THREADS": str(threads),
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "true",
    }


@dataclass(frozen=True, slots=True)
class Contender:
    """One way to do the job: an adapter and the setup that it is loaded with.

    `requirements` are installed into an environment of its own over the bench's; without any it
    runs in the bench's own. `prepare` is a `module:function` that has to be called first.
    """

    name: str
    module: str
    setup: Setup
    prepare: str = ""
    requirements: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Answer:
    """The seconds of each call, and the outputs: texts, or vectors [texts, width]."""

    seconds: list[float]
    outputs: Any


@dataclass(frozen=True, slots=True)
class Memory:
    """Resident bytes: what came since the adapter was imported, and the most at all since it had loaded."""

    grown: int
    peak: int


class ContenderProcess:
    """A contender's process, alive until it is closed; one answer is awaited at a time."""

    def __init__(self, name: str, python: str, threads: int, log: Path) -> None:
        self._name = name
        self._log = log
        self._connection, theirs = socket.socketpair()
        self._connection.settimeout(PATIENCE)
        with theirs, log.open("wb") as output:
            self._process = subprocess.Popen(  # noqa: S603 - the command is the bench's own
                [python, "-m", "loadgen.bench.child", str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=child_environment(threads),
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._connection.close()
        self._process.kill()
        self._process.wait()

    def call(self, function: str, setup: Setup) -> None:
        """Have it call a `module:function` with a setup."""
        self._ask({"order": "call", "function": function, "setup": asdict(setup)})

    def load(self, module: str, setup: Setup) -> None:
        """Have it load an adapter."""
        self._ask({"order": "load", "module": module, "setup": asdict(setup)})

    def run(self, texts: Sequence[str], *, alone: bool = False) -> Answer:
        """Have it run texts together, or each by itself."""
        answer = self._ask({"order": "run", "texts": list(texts), "alone": alone})
        return Answer(answer["seconds"], decode_outputs(answer))

    def memory(self) -> Memory:
        """Return what its memory is."""
        return Memory(**self._ask({"order": "memory"}))

    def _ask(self, order: Message) -> Message:
        try:
            send_frame(self._connection, order)
            answer = receive_frame(self._connection)
        except TimeoutError as error:
            raise ContenderError(f"{self._name} gave no answer in {PATIENCE:.0f} s") from error
        except OSError:
            answer = None
        if answer is None:
            raise ContenderError(f"{self._name} died: {self._last_words()}")
        if "error" in answer:
            raise ContenderError(f"{self._name}: {answer['error']}")
        return answer

    def _last_words(self) -> str:
        try:
            status = self._process.wait(_LAST_SECONDS)
        except subprocess.TimeoutExpired:
            return "it closed its connection, and goes on"
        lines = self._log.read_text(encoding="utf-8", errors="replace").split("\n")
        last = next((line.strip() for line in reversed(lines) if line.strip()), "no last words")
        return f"status {status}, {last[:200]}"
