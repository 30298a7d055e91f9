"""Proof over whole topics: each input record has one outcome, and each key's results keep their order."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from stream_infer.bus.connection import Connection
from stream_infer.schemas import Record
from tests.broker.probes import read_committed

Place = tuple[str, int, int]
"""Topic, partition and offset of an input record."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """Offenders by kind; all empty when delivery held."""

    lost: tuple[Place, ...]
    duplicated: tuple[Place, ...]
    unexpected: tuple[Place, ...]
    out_of_order: tuple[Place, ...]

    @property
    def is_clean(self) -> bool:
        """Whether nothing offends."""
        return not (self.lost or self.duplicated or self.unexpected or self.out_of_order)


async def audit(connection: Connection, inputs: str, outputs: Sequence[str]) -> Verdict:
    """Read the topics from beginning to end and judge them."""
    given = await read_committed(connection, inputs)
    came_out = [record for topic in outputs for record in await read_committed(connection, topic)]
    return judge(given, came_out)


def judge(given: Iterable[Record], came_out: Sequence[Record]) -> Verdict:
    """Return what is wrong with the outcomes of the given records."""
    expected = {(record.topic, record.partition, record.offset) for record in given}
    counts = Counter(source_of(record) for record in came_out)
    return Verdict(
        lost=tuple(sorted(expected - counts.keys())),
        duplicated=tuple(sorted(place for place, count in counts.items() if count > 1)),
        unexpected=tuple(sorted(counts.keys() - expected)),
        out_of_order=tuple(_out_of_order(came_out)),
    )


def source_of(record: Record) -> Place:
    """Return where the record came from that this one is the outcome of."""
    headers = {name: (value or b"").decode(errors="replace") for name, value in record.headers}
    prefix = "dead_letter_" if "dead_letter_topic" in headers else "source_"
    return headers[f"{prefix}topic"], int(headers[f"{prefix}partition"]), int(headers[f"{prefix}offset"])


def _out_of_order(came_out: Sequence[Record]) -> Iterable[Place]:
    """Yield outcomes that stand behind a later one of the same key, topic and source partition."""
    latest: defaultdict[tuple[str, bytes, int], int] = defaultdict(lambda: -1)
    for record in sorted(came_out, key=lambda each: (each.topic, each.partition, each.offset)):
        if record.key is None:
            continue
        place = source_of(record)
        order = (record.topic, record.key, place[1])
        if place[2] < latest[order]:
            yield place
        latest[order] = max(latest[order], place[2])
