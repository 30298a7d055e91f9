"""Where records go that a side stream cannot take."""

from __future__ import annotations

import structlog

from stream_infer.bus.codec import letter_encoders, record_id
from stream_infer.bus.publisher import Publisher
from stream_infer.errors import EngineError, OutcomeError, RecordTooLargeError
from stream_infer.schemas import DeadLetter, Record

log = structlog.get_logger(__name__)


class DeadLetters:
    """The dead letters of one side stream."""

    def __init__(self, publisher: Publisher, topic: str, stream: str, *, hides_text: bool = False) -> None:
        """With `hides_text` they hold no user text."""
        self._publisher = publisher
        self._topic = topic
        self._stream = stream
        self._encode, self._encode_bare = letter_encoders(hides_text=hides_text)

    async def reject(self, record: Record, error: OutcomeError) -> None:
        """Publish the record with what is wrong with it; return once the broker has it."""
        stage = "engine" if isinstance(error, EngineError) else "decode"
        letter = DeadLetter(record, record_id(record), self._stream, error.reason, str(error), stage)
        try:
            await self._publisher.publish([self._encode(letter, self._topic)])
        except RecordTooLargeError:
            await self._publisher.publish([self._encode_bare(letter, self._topic)])
        log.warning("record_rejected", stream=self._stream, position=record.position, reason=error.reason)
