"""Rows of memory: the service's replica at 8 bits against itself at full precision, with a BERT-base."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Final

from loadgen.bench import contenders
from loadgen.bench.contender import Contender
from loadgen.bench.encoding import bert_base, encoder_texts
from loadgen.bench.makers import Maker
from loadgen.bench.rows import Measure, Row, compare
from loadgen.bench.workshop import Workshop

MEASURE: Final = Measure("MB", is_more_better=False)
ROUNDS: Final = 3
"""Each loads the models anew, and finds the same but for a few megabytes."""
TEXTS: Final = 128
_MB: Final = 1e6


@dataclass(frozen=True, slots=True)
class Resident:
    """What a model that is ready added to a process' resident memory, and the most that it held at work."""

    weights: float
    peak: float


def memory(asked: Collection[str], workshop: Workshop) -> Iterator[Row]:
    """Yield the rows; the peer is the engine itself at full precision."""
    ours = contenders.ours_at_random("ours", bert_base(workshop))
    exact = contenders.at_full_precision(ours)
    keys = [key for key in ("memory_weights", "memory_peak") if key in asked]
    rounds = [[_measure(each, workshop) for each in (ours, exact)] for _ in range(ROUNDS)]
    for key in keys:
        figures = [[getattr(found, key.removeprefix("memory_")) for found in pair] for pair in rounds]
        own, other = zip(*figures, strict=True)
        yield compare(key, MEASURE, own, {exact.name: other})


MAKERS: Final = (Maker(("memory_weights", "memory_peak"), memory),)


def _measure(contender: Contender, workshop: Workshop) -> Resident:
    with ExitStack() as stack:
        process = workshop.start(contender, stack)
        texts = encoder_texts(workshop.texts)[:TEXTS]
        process.run(texts[:1])  # weights that are mapped from a file come into memory when they are used
        weights = process.memory().grown
        process.run(texts)
        return Resident(weights / _MB, process.memory().peak / _MB)
