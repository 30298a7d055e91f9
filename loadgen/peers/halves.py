"""Engines that are bound to a thread: a process for each core, with its share of the texts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import Final

Translate = Callable[[str], str]

_CONTEXT: Final = get_context("spawn")


class Shared:
    """Processes that each hold an engine of their own; texts are dealt out in turn."""

    def __init__(self, make: Callable[[str], Translate], model: str, count: int) -> None:
        """`make` is a module's function, which returns the engine that a process holds."""
        self._connections = [self._start(make, model) for _ in range(count)]

    def __call__(self, texts: Sequence[str]) -> list[str]:
        """Return the translation of each text, in order."""
        count = len(self._connections)
        for place, connection in enumerate(self._connections):
            connection.send(texts[place::count])
        translated = [""] * len(texts)
        for place, connection in enumerate(self._connections):
            translated[place::count] = connection.recv()
        return translated

    @staticmethod
    def _start(make: Callable[[str], Translate], model: str) -> Connection:
        ours, theirs = _CONTEXT.Pipe()
        _CONTEXT.Process(target=_serve, args=(make, model, theirs), daemon=True).start()
        theirs.close()
        return ours


def _serve(make: Callable[[str], Translate], model: str, connection: Connection) -> None:
    translate = make(model)
    while True:
        try:
            texts = connection.recv()
        except EOFError:
            return
        connection.send([translate(text) for text in texts])
