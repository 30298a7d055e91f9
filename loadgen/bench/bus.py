"""The rows of the bus: what a topic costs, and from topic to topic."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterator, Mapping, Sequence
from statistics import median
from typing import Final

from loadgen.bench import end_to_end
from loadgen.bench.hotpath import BARE, WORKER, Costs, measure
from loadgen.bench.makers import Maker
from loadgen.bench.rows import Measure, Row, compare
from loadgen.bench.workshop import Workshop
from loadgen.kafka.brokers import EMBEDDED, KAFKA

FLOOD: Final = 40_000
SINGLES: Final = 100
RATE: Final = Measure("events/s of a core")
ADDED: Final = Measure("ms", is_more_better=False)
CACHED_TARGET: Final = 25_000.0
KEYS: Final = {EMBEDDED: {"idle_embedded"}, KAFKA: {"idle_kafka", "e2e_cached"}}
IDLE_TARGETS_MS: Final = {EMBEDDED: 3.0, KAFKA: 8.0}


def costs(asked: Collection[str], workshop: Workshop) -> Iterator[Row]:
    """Yield the rows of what the bus costs; a bare loop of the same input and output is told beside."""
    for kind, own in KEYS.items():
        keys = own & set(asked)
        if not keys:
            continue
        workshop.show(f"what the bus costs, {kind}")
        found = asyncio.run(measure(kind, workshop.rounds, FLOOD, SINGLES))
        yield from (row_of(key, kind, found) for key in sorted(keys))


MAKERS: Final = (Maker(("e2e_cached", "idle_embedded", "idle_kafka"), costs), *end_to_end.MAKERS)


def row_of(key: str, kind: str, found: Costs) -> Row:
    """Return a row of what the bus costs on a kind of broker, against its target."""
    figures: Mapping[str, Sequence[float]]
    if key == "e2e_cached":
        figures, measure_, target = found.rates, RATE, CACHED_TARGET
    else:
        figures, measure_, target = _medians(found.added_ms), ADDED, IDLE_TARGETS_MS[kind]
    own = figures[WORKER]
    note = f"a bare loop {median(figures[BARE]):.4g}"
    return compare(key, measure_, own, {"the target": [target] * len(own)}, note=note)


def _medians(added_ms: Mapping[str, Sequence[float]]) -> dict[str, list[float]]:
    """Return the median of each round."""
    return {
        name: [median(found[start : start + SINGLES]) for start in range(0, len(found), SINGLES)]
        for name, found in added_ms.items()
    }
