"""The handlers between results and feedback on one side, and trends and quality on the other.

Two steps: `ObservationGatherer` brings what matters of every partition together on one, and
`ObservationFold` counts it there. Delivery is at least once, and repeating is harmless, since an
observation that comes again is told by the record that it was made of.
"""

from __future__ import annotations

from dataclasses import dataclass

import structlog

from stream_infer.bus.batches import OutRecord
from stream_infer.bus.publisher import Publisher
from stream_infer.config import StreamsSettings
from stream_infer.errors import MalformedRecordError, RecordError
from stream_infer.schemas import Record
from stream_infer.streams.dead_letters import DeadLetters
from stream_infer.streams.observations import (
    LabelledResult,
    decode_observation,
    encode_observation,
    observe_feedback,
    observe_result,
)
from stream_infer.streams.quality import RollingQuality, encode_statements, quality_record
from stream_infer.streams.table import DurableTable
from stream_infer.streams.trends import LabelTrends, encode_window, trend_record

log = structlog.get_logger(__name__)


class ObservationGatherer:
    """Puts an observation of each result and feedback on the topic where all meet."""

    def __init__(self, settings: StreamsSettings, publisher: Publisher, dead_letters: DeadLetters) -> None:
        self._settings = settings
        self._publisher = publisher
        self._dead_letters = dead_letters
        self._waiting: list[OutRecord] = []

    async def handle(self, record: Record) -> None:
        """Take a record; bad feedback is rejected, and what is no result of ours is passed over."""
        is_feedback = record.topic == self._settings.feedback
        try:
            observation = observe_feedback(record) if is_feedback else observe_result(record)
        except RecordError as error:
            if is_feedback:
                await self._dead_letters.reject(record, error)
            else:
                log.warning("result_passed_over", position=record.position, error=str(error))
        else:
            self._waiting.append(encode_observation(observation, self._settings.observations))

    async def checkpoint(self) -> None:
        """Publish the observations."""
        await self._publisher.publish(self._waiting)
        self._waiting = []

    def forget(self) -> None:
        """Drop the observations: whoever has the partitions now makes them again."""
        self._waiting = []


@dataclass(frozen=True, slots=True)
class LabelTables:
    """Where windows, and what was said under each id, outlive the process."""

    windows: DurableTable
    statements: DurableTable


class ObservationFold:
    """Counts observations.

    A checkpoint publishes what changed first and stores it then: after a crash in between, the
    same is counted and published again, so the topics may briefly go back, never stay behind.
    """

    def __init__(self, settings: StreamsSettings, tables: LabelTables, publisher: Publisher) -> None:
        self._settings = settings
        self._tables = tables
        self._publisher = publisher
        self._state: tuple[LabelTrends, RollingQuality] | None = None

    async def handle(self, record: Record) -> None:
        """Count an observation."""
        trends, quality = self._loaded()
        try:
            observation = decode_observation(record)
        except MalformedRecordError as error:
            log.warning("observation_passed_over", position=record.position, error=str(error))
            return
        if isinstance(observation, LabelledResult):
            trends.add(observation)
        quality.add(observation)

    async def checkpoint(self) -> None:
        """Publish and store what changed.

        1. Publish trends and quality.
        2. Store the windows, oldest first, and what was said.
        """
        trends, quality = self._loaded()
        windows = trends.take_changes()
        await self._publisher.publish(
            [
                *(trend_record(name, window, self._settings.trends) for name, window in windows if window),
                *(
                    quality_record(model, confusion, self._settings.quality_window_ms, self._settings.quality)
                    for model, confusion in quality.take_changed_models().items()
                ),
            ]
        )
        for name, window in windows:
            _store(self._tables.windows, name.key, encode_window(window) if window else None)
        for identity, said in quality.take_changed_ids().items():
            _store(self._tables.statements, identity.encode(), encode_statements(said) if said else None)
        await self._tables.windows.confirm()
        await self._tables.statements.confirm()
        if trends.late:
            log.warning("results_late", **{f"stream_{name}": count for name, count in trends.late.items()})
            trends.late.clear()

    def forget(self) -> None:
        """Read the tables again before the next observation."""
        self._state = None

    def _loaded(self) -> tuple[LabelTrends, RollingQuality]:
        if self._state is None:
            settings, tables = self._settings, self._tables
            self._state = (
                LabelTrends(settings.trend_window_ms, settings.trend_grace_ms, tables.windows.items()),
                RollingQuality(
                    settings.quality_window_ms, settings.quality_max_ids, tables.statements.items()
                ),
            )
        return self._state


def _store(table: DurableTable, key: bytes, value: bytes | None) -> None:
    if value is not None:
        table[key] = value
    elif key in table:
        del table[key]
