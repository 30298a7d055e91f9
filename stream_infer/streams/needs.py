"""Which side streams the settings ask for, and what must exist on the broker before they start."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from stream_infer.bus.connection import Connection
from stream_infer.bus.topics import CHANGELOG, partition_counts
from stream_infer.config import Settings
from stream_infer.errors import ConfigError
from stream_infer.schemas import Task

COUNTS_TABLE: Final = "passage-counts"
WINDOWS_TABLE: Final = "trend-windows"
STATEMENTS_TABLE: Final = "quality-statements"
_DEAD_LETTERS: Final = "dead-letters"


def has_task(settings: Settings, task: Task) -> bool:
    """Whether some stream does the task: documents are for answers, trends and quality for labels."""
    return any(stream.task is task for stream in settings.streams.values())


def label_topics(settings: Settings) -> list[str]:
    """Return what labels are gathered from: the results of every classify stream, and feedback."""
    outputs = {stream.output for stream in settings.streams.values() if stream.task is Task.CLASSIFY}
    return [*sorted(outputs), settings.side_streams.feedback]


def changelog_topic(settings: Settings, table: str) -> str:
    """Return the topic that Faust keeps a table in; it gives such topics their names."""
    return CHANGELOG.format(application=settings.side_streams.application, table=table)


def dead_letters_topic(settings: Settings, task: Task) -> str:
    """Return where bad records of a side stream go: with the bad requests that they have to do with."""
    streams = (stream for stream in settings.streams.values() if stream.task is task)
    return next((stream.dead_letters for stream in streams), _DEAD_LETTERS)


def state_topics(settings: Settings) -> dict[str, str]:
    """Return the topic that each changelog has to be partitioned like."""
    sources = {}
    if has_task(settings, Task.ANSWER):
        sources[changelog_topic(settings, COUNTS_TABLE)] = settings.retrieval.documents
    if has_task(settings, Task.CLASSIFY):
        observations = settings.side_streams.observations
        sources |= {
            changelog_topic(settings, table): observations for table in (WINDOWS_TABLE, STATEMENTS_TABLE)
        }
    return sources


async def check_needs(connection: Connection, settings: Settings) -> None:
    """Check that there is something to do, and that the topics for it exist, rightly partitioned.

    Raises:
        ConfigError: no stream needs this role, a topic is missing, or has the wrong number of partitions.
        BusError: the broker is out of reach or refuses.
    """
    sources = state_topics(settings)
    if not sources:
        raise ConfigError("streams: none answers or classifies, so there is nothing for this role to do")
    names = {*sources, *sources.values(), *_other_topics(settings)}
    counts = await partition_counts(connection, sorted(names))
    check_counts(counts, sources)
    check_single(counts, settings)


def _other_topics(settings: Settings) -> set[str]:
    names = set()
    if has_task(settings, Task.ANSWER):
        names |= {settings.retrieval.passages, dead_letters_topic(settings, Task.ANSWER)}
    if has_task(settings, Task.CLASSIFY):
        side_streams = settings.side_streams
        names |= {side_streams.trends, side_streams.quality, *label_topics(settings)}
        names.add(dead_letters_topic(settings, Task.CLASSIFY))
    return names


def check_counts(counts: Mapping[str, int], sources: Mapping[str, str]) -> None:
    """Raise ConfigError unless each changelog has as many partitions as the topic its state is made of."""
    for changelog, source in sources.items():
        if counts[source] != counts[changelog]:
            raise ConfigError(
                f"topic {changelog} has {counts[changelog]} partitions and must have as many as {source}, "
                f"which has {counts[source]}: state lives in the partition of the records it is made of"
            )


def check_single(counts: Mapping[str, int], settings: Settings) -> None:
    """Raise ConfigError unless all observations meet in one partition."""
    name = settings.side_streams.observations
    if counts.get(name, 1) != 1:
        raise ConfigError(
            f"topic {name} has {counts[name]} partitions and must have 1: what is counted meets there"
        )
