"""Where records go that a side stream cannot take."""

from __future__ import annotations

import structlog

from stream_infer.bus.codec import encode_bare_dead_letter, encode_dead_letter, record_id
from stream_infer.bus.publisher import Publisher
from stream_infer.errors import EngineError, OutcomeError, RecordTooLargeError
from stream_infer.schemas import DeadLetter, Record

log = structlog.get_logger(__name__)


class DeadLetters:
    """The dead letters of one side stream."""

    def __init__(self, publisher: Publisher, topic: str, stream: str) -> None:
        self._publisher = publisher
        self._topic = topic
        self._stream = stream

    async def reject(self, record: Record, error: OutcomeError) -> None:
        """Publish the record with what is wrong with it; return once the broker has it."""
        stage = "engine" if isinstance(error, EngineError) else "decode"
        letter = DeadLetter(record, record_id(record), self._stream, error.reason, str(error), stage)
        try:
            await self._publisher.publish([encode_dead_letter(letter, self._topic)])
        except RecordTooLargeError:
            await self._publisher.publish([encode_bare_dead_letter(letter, self._topic)])
        log.warning("record_rejected", stream=self._stream, position=record.position, reason=error.reason)
