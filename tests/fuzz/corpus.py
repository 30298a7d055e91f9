"""The inputs that are kept for each target, as few and as short as reach all that was reached."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import stream_infer
from tests.fuzz.target import Target

CORPUS = Path(__file__).parent / "corpus"
CRASH = "crash-"
"""How the names of inputs begin that broke a target once."""
PACKAGE = str(Path(stream_infer.__file__).parent)

Arc = tuple[CodeType, int, int]
"""A step from one line of a function to another."""


def kept_inputs(target: Target) -> list[Path]:
    """Return the files that are kept for a target, by name."""
    return sorted(path for path in (CORPUS / target.name).glob("*") if path.is_file())


def all_inputs(target: Target) -> list[bytes]:
    """Return what a target is checked with wherever it is: its seeds and what is kept for it."""
    return [*target.seeds, *(path.read_bytes() for path in kept_inputs(target))]


def keep(target: Target, inputs: Iterable[bytes], crashes: Iterable[bytes]) -> int:
    """Keep of the inputs the fewest that reach everything, and every crash; return how many there are.

    What is there already counts as inputs too, so nothing that was reached before is lost. Crashes stay
    for good: they are told by their name, and not run here, as they may break the target still.
    """
    folder = CORPUS / target.name
    folder.mkdir(parents=True, exist_ok=True)
    for data in crashes:
        (folder / f"{CRASH}{_name(data)}").write_bytes(data)
    before = {path: path.read_bytes() for path in kept_inputs(target)}
    broke = {data for path, data in before.items() if path.name.startswith(CRASH)}
    chosen = minimised(target.run, target.seeds, {*before.values(), *inputs} - broke)
    for path in before:
        if not path.name.startswith(CRASH):
            path.unlink()
    for data in chosen:
        (folder / _name(data)).write_bytes(data)
    return len(chosen)


def minimised(check: Callable[[bytes], None], seeds: Iterable[bytes], inputs: Iterable[bytes]) -> list[bytes]:
    """Return the inputs, shortest first, each of which takes a step that no seed or shorter one takes."""
    seen: set[Arc] = set()
    for seed in seeds:
        seen |= _arcs(check, seed)
    chosen = []
    for data in sorted(set(inputs), key=lambda each: (len(each), each)):
        arcs = _arcs(check, data)
        if not arcs <= seen:
            seen |= arcs
            chosen.append(data)
    return chosen


def _arcs(check: Callable[[bytes], None], data: bytes) -> set[Arc]:
    """Return the steps within the package that a check takes."""
    arcs: set[Arc] = set()

    def enter(frame: FrameType, _event: str, _argument: Any) -> Any:
        if not frame.f_code.co_filename.startswith(PACKAGE):
            return None
        last = 0

        def step(inner: FrameType, event: str, _argument: Any) -> Any:
            nonlocal last
            if event == "line":
                arcs.add((inner.f_code, last, inner.f_lineno))
                last = inner.f_lineno
            return step

        return step

    tracer = sys.gettrace()
    sys.settrace(enter)
    try:
        check(data)
    finally:
        sys.settrace(tracer)
    return arcs


def _name(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]
