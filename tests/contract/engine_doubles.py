"""Backends that misbehave on demand: the texts of a batch say how. Loaded by replicas by name."""

import os
import resource
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from stream_infer.engine.specs import ModelSpec
from stream_infer.schemas import ModelInfo, Output, Tokens

_MEMORY_LIMIT = 2 << 30
_HOG_BYTES = 1 << 30
_PIECE_BYTES = 16 << 20


def misbehave(batch: Sequence[Tokens]) -> list[str]:
    """Do what the first marked word says; return the texts where there is none."""
    texts = [bytes(tokens.ids.astype(np.uint8)).decode() for tokens in batch]
    for text in texts:
        for mark, action in _ACTIONS.items():
            if mark in text:
                action()
    return texts


class Echo:
    """Answers with the text in capitals, unless it holds a marked word."""

    def __init__(self, spec: ModelSpec) -> None:
        self.info = ModelInfo(spec.name, spec.source, "1", spec.precision.value, "cpu", 4096)

    def run(self, batch: Sequence[Tokens], options: Sequence[str]) -> list[Output]:
        """Answer, or do what a mark asks for."""
        texts = misbehave(batch)
        return [
            Output(text=f"{text.upper()}{option}", truncated=tokens.truncated)
            for text, option, tokens in zip(texts, options, batch, strict=True)
        ]


class Lengths:
    """Answers with a vector that holds the text's length, or with what a mark in the text names."""

    def __init__(self, spec: ModelSpec) -> None:
        self.info = ModelInfo(spec.name, spec.source, "1", "fp32", "cpu", 4096, 1, labels=("a", "b"))

    def run(self, batch: Sequence[Tokens], options: Sequence[str]) -> list[Output]:
        """Answer with lengths."""
        del options
        return [_length(text, len(tokens.ids)) for text, tokens in zip(misbehave(batch), batch, strict=True)]


def _length(text: str, length: int) -> Output:
    for mark, odd in _ODD_OUTPUTS.items():
        if mark in text:
            return odd
    return Output(vector=np.array([length], np.float16))


def echo(spec: ModelSpec) -> Echo:
    return Echo(spec)


def lengths(spec: ModelSpec) -> Lengths:
    return Lengths(spec)


def broken(spec: ModelSpec) -> Echo:
    raise FileNotFoundError(f"no weights for {spec.name}")


def hanging_when_replaced(spec: ModelSpec) -> Echo:
    if _was_loaded(spec):
        _hang()
    return Echo(spec)


def broken_when_replaced(spec: ModelSpec) -> Echo:
    if _was_loaded(spec):
        raise OSError("device busy")
    return Echo(spec)


def _was_loaded(spec: ModelSpec) -> bool:
    """Whether a process before this one has loaded the model; the file in its options remembers."""
    flag = Path(str(spec.options["flag"]))
    known = flag.exists()
    flag.touch()
    return known


def suicidal(spec: ModelSpec) -> Echo:
    os.kill(os.getpid(), signal.SIGKILL)
    return Echo(spec)


def _raise() -> None:
    raise ValueError("token 7 is poison")


def _exhaust_memory() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_LIMIT, hard))
    try:
        np.ones(_MEMORY_LIMIT, np.uint8)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (hard, hard))


def _hog() -> None:
    """Take memory until the kernel does something about it, or there is much more of it than expected."""
    taken = [np.ones(_PIECE_BYTES, np.uint8) for _ in range(_HOG_BYTES // _PIECE_BYTES)]
    raise MemoryError(f"{len(taken)} pieces were not enough")


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _exit() -> None:
    os._exit(3)


def _hang() -> None:
    time.sleep(3600)


_ODD_OUTPUTS = {
    "<nan>": Output(vector=np.array([np.nan], np.float16)),
    "<infinity>": Output(vector=np.array([np.inf], np.float32)),
    "<objects>": Output(vector=np.array([None], object)),
    "<double>": Output(vector=np.array([1.0], np.float64)),
    "<surrogate>": Output(text="\ud800"),
}
_ACTIONS: dict[str, Callable[[], None]] = {
    "<raise>": _raise,
    "<memory>": _exhaust_memory,
    "<hog>": _hog,
    "<die>": _die,
    "<exit>": _exit,
    "<hang>": _hang,
}
