"""One run of the coverage-guided fuzzer, in a process of its own: it ends the process it runs in.

`python -m tests.fuzz.guided TARGET ARGUMENTS`, where the arguments are libFuzzer's.
"""

from __future__ import annotations

import resource
import sys
import warnings
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["stream_infer"]):
    from tests.fuzz.registry import TARGETS

SPARE_BYTES = 256 * 1024 * 1024
"""Memory that one input may take beside what is there at the start."""


def main(name: str, arguments: list[str]) -> None:
    """Run a target until libFuzzer ends the process."""
    warnings.simplefilter("error")
    target = TARGETS[name]
    for seed in target.seeds:
        target.run(seed)
    atheris.Setup([sys.argv[0], f"-max_len={target.max_bytes}", *arguments], target.run)
    _bound_memory()
    atheris.Fuzz()


def _bound_memory() -> None:
    """Let a reader that believes a length in its input run out of memory, which is a crash."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    limit = pages * resource.getpagesize() + SPARE_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
