"""What is fuzzed: a reader of bytes, and what must hold whatever the bytes are."""

from __future__ import annotations

import os
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from time import process_time
from typing import Any, ParamSpec, TypeVar

from stream_infer.errors import StreamInferError

P = ParamSpec("P")
T = TypeVar("T")

MAX_MESSAGE_CHARS = 20_000
MAX_SECONDS = 2.0
"""Of this process's CPU for one input; most take less than a millisecond."""


@dataclass(frozen=True, slots=True)
class Target:
    """One reader; `check` raises for bytes that break it.

    `seeds` are inputs that it accepts: a fuzzer that starts from nothing seldom finds one.
    """

    name: str
    check: Callable[[bytes], None]
    seeds: tuple[bytes, ...]
    max_bytes: int = 512

    def run(self, data: bytes) -> None:
        """Check the reader on these bytes, and how long it took.

        An error that is not of our own tree, or one with nothing to say, comes out as it is.
        """
        began = process_time()
        self.check(data)
        took = process_time() - began
        assert took < MAX_SECONDS, f"{len(data)} bytes took {took:.1f} s"


def attempt(
    refusal: type[StreamInferError], read: Callable[P, T], *arguments: P.args, **options: P.kwargs
) -> T | None:
    """Return what `read` gives, or None where it refuses with the error that it documents."""
    try:
        return read(*arguments, **options)
    except refusal as error:
        message = str(error)
    assert 0 < len(message) <= MAX_MESSAGE_CHARS
    return None


def attempt_file(refusal: type[StreamInferError], data: bytes, read: Callable[[Path], T]) -> T | None:
    """Return what `read` makes of a file with these bytes, or None where it refuses and names the file."""
    path = memory_file(data)
    try:
        return read(path)
    except refusal as error:
        message = str(error)
    assert str(path) in message
    assert len(message) <= MAX_MESSAGE_CHARS
    return None


def finished(coroutine: Coroutine[Any, Any, T]) -> T:
    """Return what a coroutine gives that never waits, as all its bytes are there: no loop is turned."""
    try:
        coroutine.send(None)
    except StopIteration as end:
        given: T = end.value
        return given
    raise AssertionError("it waits for what never comes")


def memory_file(data: bytes) -> Path:
    """Return a file that holds these bytes until the next call."""
    number = _memory_file()
    os.ftruncate(number, 0)
    os.pwrite(number, data, 0)
    return Path(f"/proc/self/fd/{number}")


@cache
def _memory_file() -> int:
    return os.memfd_create("fuzz")
