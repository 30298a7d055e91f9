"""What must exist on the broker before the side streams start."""

from __future__ import annotations

from typing import Final

from stream_infer.bus.connection import Connection
from stream_infer.bus.topics import partition_counts
from stream_infer.config import Settings
from stream_infer.errors import ConfigError
from stream_infer.schemas import Task

COUNTS_TABLE: Final = "passage-counts"
_DEAD_LETTERS: Final = "dead-letters"


def changelog_topic(settings: Settings) -> str:
    """Return the topic that Faust keeps the passage counts in; it gives such topics their names."""
    return f"{settings.side_streams.application}-{COUNTS_TABLE}-changelog"


def dead_letters_topic(settings: Settings) -> str:
    """Return where bad documents go: with the bad questions about them."""
    answering = (stream for stream in settings.streams.values() if stream.task is Task.ANSWER)
    return next((stream.dead_letters for stream in answering), _DEAD_LETTERS)


async def check_needs(connection: Connection, settings: Settings) -> None:
    """Check that the topics exist and that state and documents are partitioned alike.

    Raises:
        ConfigError: a topic is missing, or the changelog has not as many partitions as the documents.
        BusError: the broker is out of reach or refuses.
    """
    documents, changelog = settings.retrieval.documents, changelog_topic(settings)
    others = [settings.retrieval.passages, dead_letters_topic(settings)]
    check_counts(await partition_counts(connection, [documents, changelog, *others]), documents, changelog)


def check_counts(counts: dict[str, int], documents: str, changelog: str) -> None:
    """Raise ConfigError unless both topics have the same number of partitions."""
    if counts[documents] != counts[changelog]:
        raise ConfigError(
            f"topic {changelog} has {counts[changelog]} partitions and must have as many as {documents}, "
            f"which has {counts[documents]}: a document's state lives in its own partition"
        )
