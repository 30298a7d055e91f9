"""Where a bench runs: its contenders' processes, and what is made for them on disk."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import mkdtemp
from typing import Final

from loadgen.bench.contender import Contender, ContenderProcess
from loadgen.bench.environments import interpreter
from loadgen.peers.setup import Setup

Show = Callable[[str], None]

_LOGS: Final = "logs"


@dataclass(slots=True)
class Workshop:
    """A directory for what is made, the threads of every contender, and who is told what goes on."""

    directory: Path
    rounds: int
    threads: int
    texts: int
    show: Show
    _made: dict[tuple[str, str], Path] = field(default_factory=dict)
    _started: int = 0

    def make(self, function: str, setup: Setup, requirements: tuple[str, ...] = ()) -> Path:
        """Return the directory that `function` fills for a model, in a process of its own, once."""
        key = (function, setup.model)
        if key not in self._made:
            self.show(f"making what {function} makes")
            directory = Path(mkdtemp(dir=self.directory))
            with self._process(function, requirements) as process:
                process.call(function, replace(setup, scratch=str(directory)))
            self._made[key] = directory
        return self._made[key]

    def start(self, contender: Contender, stack: ExitStack) -> ContenderProcess:
        """Return a contender's process, loaded, which lasts as long as the stack.

        Raises:
            ContenderError: it cannot be installed, prepared or loaded.
        """
        setup = replace(contender.setup, threads=self.threads)
        if contender.prepare:
            scratch = self.make(contender.prepare, setup, contender.requirements)
            setup = replace(setup, scratch=str(scratch))
        self.show(f"loading {contender.name}")
        process = stack.enter_context(self._process(contender.name, contender.requirements))
        process.load(contender.module, setup)
        return process

    def _process(self, name: str, requirements: tuple[str, ...]) -> ContenderProcess:
        self._started += 1
        log = self.directory / _LOGS / f"{self._started}.log"
        log.parent.mkdir(exist_ok=True)
        return ContenderProcess(name, interpreter(requirements), self.threads, log)
