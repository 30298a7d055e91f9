"""`stream-infer serve` whose metrics and traces are switched on and off by signals: see `overhead`."""

from __future__ import annotations

import signal
from enum import IntEnum
from types import FrameType
from typing import Any

from prometheus_client import Counter, Histogram

from stream_infer.cli import app
from stream_infer.counting import ModelMetrics, StreamMetrics
from stream_infer.service.partitions import PartitionOwner

Methods = dict[type[Any], tuple[str, ...]]

COUNTING: Methods = {
    Counter: ("inc",),
    Histogram: ("observe",),
    ModelMetrics: ("count_batch",),
    StreamMetrics: ("count_published", "count_commit"),
}
TRACING: Methods = {PartitionOwner: ("_trace",)}


class Watching(IntEnum):
    """What a worker does besides its work, as the signal that asks for it."""

    NOTHING = signal.SIGRTMIN + 1
    METRICS = signal.SIGRTMIN + 2
    METRICS_AND_TRACES = signal.SIGRTMIN + 3


class Switch:
    """Takes methods away and puts them back."""

    def __init__(self, methods: Methods) -> None:
        self._kept = {
            (owner, name): getattr(owner, name) for owner, names in methods.items() for name in names
        }

    def turn(self, *, on: bool) -> None:
        """Have the methods do what they are there for, or nothing."""
        for (owner, name), method in self._kept.items():
            setattr(owner, name, method if on else _nothing)


def _nothing(*_: object, **__: object) -> None:
    """Take the place of whatever counts or traces."""


def main() -> None:
    """Run the command line of the service, at first with everything on."""
    counting, tracing = Switch(COUNTING), Switch(TRACING)

    def turn(number: int, _: FrameType | None) -> None:
        counting.turn(on=number != Watching.NOTHING)
        tracing.turn(on=number == Watching.METRICS_AND_TRACES)

    for each in Watching:
        signal.signal(each, turn)
    app()


if __name__ == "__main__":
    main()
