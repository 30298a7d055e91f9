"""Streams of decoding: parts of a batch that are decoded side by side, each on a core of its own.

A step of decoding is many small operations, and cores that share one wait for each other more than
they compute. Streams share nothing but the weights.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from typing import TypeVar

import torch

Part = TypeVar("Part")
Result = TypeVar("Result")


class Streams:
    """Threads of this process in which torch uses one core each.

    They start when they are first needed: in the process that decodes, not in the one it was forked from.
    """

    def __init__(self) -> None:
        self._threads: ThreadPoolExecutor | None = None

    def run(self, decode: Callable[[Part], Result], parts: Sequence[Part]) -> list[Result]:
        """Return what `decode` makes of each part, in order, without gradients.

        An error is raised when all parts have ended.
        """
        cores = torch.get_num_threads()
        with one_core():
            if len(parts) < 2:  # noqa: PLR2004 - nothing to do side by side
                return [_decode_on_one_core(decode, part) for part in parts]
            if self._threads is None:
                self._threads = ThreadPoolExecutor(cores)
            futures = [self._threads.submit(_decode_on_one_core, decode, part) for part in parts]
            wait(futures)
        return [future.result() for future in futures]


@contextmanager
def one_core() -> Iterator[None]:
    """Let torch use one core within, and afterwards as many as before."""
    cores = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(cores)


def deal(places: Sequence[int], streams: int) -> list[list[int]]:
    """Return the places dealt out like cards to so many streams, without empty hands.

    Places in the order of their cost make hands of about equal cost.
    """
    return [list(hand) for first in range(streams) if (hand := places[first::streams])]


def _decode_on_one_core(decode: Callable[[Part], Result], part: Part) -> Result:
    # OpenMP's number of threads, and the mode, are each thread's own.
    torch.set_num_threads(1)
    with torch.inference_mode():
        return decode(part)
