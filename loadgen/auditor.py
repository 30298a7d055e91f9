"""An audit of topics on a broker: fixes what is judged, reads it, and hands it to the judge."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

from loadgen.audit import Judge
from loadgen.broker import Broker
from loadgen.reading import TopicReader
from loadgen.verdict import Ordering, Source, Span, Verdict


async def audit(
    broker: Broker,
    inputs: Collection[str],
    outputs: Collection[str],
    *,
    since: Mapping[Source, int] | None = None,
    ordering: Ordering = Ordering.KEY,
) -> Verdict:
    """Read what the topics hold now, from `since` or their beginning, and judge it.

    The outputs' ends are fixed before the inputs': so each outcome that is read has its input record
    among those that are read, also while records go on coming in.

    Raises:
        ReadingError: a topic is missing, or the broker is out of reach or goes away.
    """
    async with (
        TopicReader(broker) as reader,
        TopicReader(broker, "read_uncommitted") as everything,
    ):
        written = await everything.spans(outputs, since)
        await reader.settle(written)
        came_out = await reader.spans(outputs, since)
        given = await reader.spans(inputs, since)
        judge = Judge(given, ordering)
        async for records in reader.read(given):
            for record in records:
                judge.expect(record)
        async for records in reader.read(came_out):
            for record in records:
                judge.take(record)
    doubts = list(_doubts(came_out, written))
    return judge.verdict(doubts, is_whole=not doubts)


def _doubts(came_out: Mapping[Source, Span], written: Mapping[Source, Span]) -> Iterator[str]:
    """Yield why outcomes may exist, or have existed, that cannot be read."""
    for (topic, partition), span in came_out.items():
        if span.is_truncated:
            yield f"{topic}/{partition} is truncated: outcomes before offset {span.begin} are gone"
        if (undecided := written[topic, partition].end - span.end) > 0:
            yield f"{topic}/{partition} has an open transaction: {undecided} offsets are undecided"
