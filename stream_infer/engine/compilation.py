"""Compiling the C++ kernels in `native/`: once for a machine, kept in a cache, without loading torch.

They need a processor with AVX-512 VNNI or AVX2 and, once, a C++ compiler. `python -m
stream_infer.engine.compilation` compiles them beside their sources, for images that are to run without
a compiler.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Final, NamedTuple

import structlog

from stream_infer.engine.keeping import cache_directory
from stream_infer.engine.processor import processor_field

log = structlog.get_logger(__name__)

SOURCES: Final = Path(__file__).with_name("native")
NO_KERNELS: Final = "none"

_COMPILERS: Final = ("g++", "c++", "clang++")
_FLAGS: Final = (
    *("-std=c++17", "-O3", "-fPIC", "-shared", "-fvisibility=hidden", "-fopenmp"),
    # A product and a sum in one step would round differently from torch.
    "-ffp-contract=off",
)
_TIMEOUT_S: Final = 120


class InstructionSet(NamedTuple):
    """What the kernels can be compiled for: the compiler's flags, and what the processor must say it has."""

    name: str
    flags: tuple[str, ...]
    needed: frozenset[str]


INSTRUCTION_SETS: Final = (
    InstructionSet(
        "AVX-512 VNNI",
        ("-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mavx512vnni"),
        frozenset({"avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512_vnni"}),
    ),
    InstructionSet("AVX2", ("-mavx2", "-mf16c"), frozenset({"avx2", "f16c"})),
)
"""The faster first."""


def find_instructions() -> InstructionSet | None:
    """Return the best that this processor has of what the kernels can be compiled for, or None."""
    has = frozenset(processor_field("flags").split())
    return next((each for each in INSTRUCTION_SETS if each.needed <= has), None)


def find_kernels(instructions: InstructionSet) -> Path | None:
    """Return the library for an instruction set, compiled if it is not yet, or None; the log says why."""
    places = _places(instructions)
    kept = next((place for place in places if place.is_file()), None)
    return kept or compile_kernels(instructions, places[-1])


def kernels_at_hand() -> str:
    """Return a name of what 8-bit layers run by on this machine, which changes with the kernels."""
    instructions = find_instructions()
    if instructions is None:
        return NO_KERNELS
    places = _places(instructions)
    is_kept = any(place.is_file() for place in places)
    return places[0].name if is_kept or find_compiler() else NO_KERNELS


def compile_kernels(instructions: InstructionSet, path: Path) -> Path | None:
    """Compile the kernels to `path` and return it, or None, which the log explains."""
    compiler = find_compiler()
    if compiler is None:
        warn(FileNotFoundError("no C++ compiler"))
        return None
    started = time.perf_counter()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent) as directory:
            made = Path(directory) / path.name
            _run_compiler(compiler, instructions, made)
            made.replace(path)
    except (OSError, subprocess.SubprocessError) as error:
        warn(error)
        return None
    took_ms = round((time.perf_counter() - started) * 1000)
    log.info("kernels_compiled", path=str(path), instructions=instructions.name, took_ms=took_ms)
    return path


def find_compiler() -> str | None:
    """Return the C++ compiler on the path, GNU's before others."""
    return next((found for name in _COMPILERS if (found := shutil.which(name))), None)


def _run_compiler(compiler: str, instructions: InstructionSet, path: Path) -> None:
    command = [compiler, *_FLAGS, *instructions.flags, str(SOURCES / "kernels.cpp"), "-o", str(path)]
    subprocess.run(command, check=True, capture_output=True, timeout=_TIMEOUT_S)  # noqa: S603 - our own words


def _file_name(instructions: InstructionSet) -> str:
    """Return a name that tells these sources and flags from others."""
    digest = hashlib.sha256(" ".join((*_FLAGS, *instructions.flags)).encode())
    for path in sorted([*SOURCES.glob("*.cpp"), *SOURCES.glob("*.h")]):
        digest.update(path.read_bytes())
    return f"kernels-{digest.hexdigest()[:16]}.so"


def warn(error: Exception) -> None:
    """Say that the kernels cannot be used, and why."""
    reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
    log.warning("kernels_not_usable", reason=reason, effect="8-bit layers are slower")


def _places(instructions: InstructionSet) -> list[Path]:
    name = _file_name(instructions)
    return [directory / name for directory in (SOURCES, cache_directory()) if directory is not None]


def main() -> None:
    """Compile the kernels beside their sources, for every processor that an image may meet."""
    for instructions in INSTRUCTION_SETS:
        compile_kernels(instructions, SOURCES / _file_name(instructions))


if __name__ == "__main__":
    main()
