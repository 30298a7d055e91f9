"""The documents stream's handler: passages published, and how many there are kept in a table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import structlog

from stream_infer.bus.batches import OutRecord
from stream_infer.bus.publisher import Publisher
from stream_infer.config import RetrievalSettings
from stream_infer.errors import OutcomeError
from stream_infer.personal_data import PersonalDataFilter
from stream_infer.retrieval.documents import document_key
from stream_infer.retrieval.passages import Document
from stream_infer.schemas import Record
from stream_infer.streams.dead_letters import DeadLetters
from stream_infer.streams.documents import Embedder, decode_change, passage_records
from stream_infer.streams.table import DurableTable

log = structlog.get_logger(__name__)


class DocumentHandler:
    """Replaces a document's passages; each document is durable before the next one begins."""

    def __init__(
        self,
        settings: RetrievalSettings,
        counts: DurableTable,
        embedder: Embedder,
        publisher: Publisher,
        dead_letters: DeadLetters,
        *,
        personal_data: PersonalDataFilter | None = None,
    ) -> None:
        """Documents go through `personal_data`, where there is such a filter, before all else."""
        self._settings = settings
        self._counts = counts
        self._embedder = embedder
        self._publisher = publisher
        self._dead_letters = dead_letters
        self._personal_data = personal_data

    async def handle(self, record: Record) -> None:
        """Bring the passages to what the record says, or reject it."""
        try:
            change = decode_change(record, self._settings.default_collection)
            if self._personal_data and isinstance(change, Document):
                # Masks keep every character's place: passages and answers count in the document's.
                change = replace(
                    change,
                    title=self._personal_data.mask(change.title),
                    text=self._personal_data.mask(change.text),
                )
            key = document_key(change.collection, change.document)
            old_count = self._counts[key]
            records, count = await passage_records(change, old_count, self._embedder, self._settings.passages)
        except OutcomeError as error:
            await self._dead_letters.reject(record, error)
        else:
            await self._replace(key, records, old_count, count)
            log.info("passages_published", position=record.position, passages=count, before=old_count)

    async def checkpoint(self) -> None:
        """Do nothing: `handle` leaves nothing that is not durable."""

    def forget(self) -> None:
        """Do nothing: what there is lives in the table."""

    async def _replace(self, key: bytes, records: Sequence[OutRecord], old_count: int, count: int) -> None:
        """Publish the records while the table never counts fewer passages than the topic may hold."""
        if count > old_count:
            await self._record_count(key, count)
        await self._publisher.publish(records)
        if count < old_count:
            await self._record_count(key, count)

    async def _record_count(self, key: bytes, count: int) -> None:
        if count:
            self._counts[key] = count
        else:
            del self._counts[key]
        await self._counts.confirm()
