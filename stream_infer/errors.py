"""The error tree.

A record's way, and where each branch can be raised:

    fetch -> decode ------> admit -----> engine -------------> publish
             RecordError    RecordError  EngineError           BusError, ResultTooLargeError

`RecordError` is the record's own fault: it is dead-lettered with the class's `reason` and never
retried. `EngineError` belongs to a batch: a retriable one halves the batch, any other bisects it
down to the record, which is then dead-lettered. `ResultTooLargeError` is what the output topic thinks of
one result. `BusError` belongs to a partition or the broker
and never becomes a dead letter. `ConfigError` stops the start. `UnreadableError` is about what this
service itself has written before: whoever reads it knows what can be gone without.
"""

from __future__ import annotations

from typing import ClassVar, Final

INTERNAL = "internal"
"""The reason of dead letters whose error is a fault of this service, not of the record."""


class StreamInferError(Exception):
    """The root of every error that this package raises on purpose."""


class ConfigError(StreamInferError):
    """A setting, model source or topic that makes it impossible to start; names every fault found."""


class UnreadableError(StreamInferError, ValueError):
    """Something is not what this service writes in its place: a topic's record, or a commit's metadata.

    A `ValueError` too, because that is what it is to whoever only parses.
    """


class OutcomeError(StreamInferError):
    """An error that can end as a dead letter."""

    reason: ClassVar[str]
    retriable: ClassVar[bool] = False


class RecordError(OutcomeError):
    """A fault of one record, found before it reached a model."""


class MalformedRecordError(RecordError):
    """The value is not a msgpack map or JSON object, holds bad UTF-8, or is nested beyond the limit."""

    reason = "malformed"


class InvalidFieldError(RecordError):
    """A field is missing, has the wrong type or a value out of range."""

    reason = "invalid_field"


class EmptyTextError(RecordError):
    """The text is missing, or nothing is left of it after preparation."""

    reason = "empty_text"


class TooLargeError(RecordError):
    """The value or a text in it is over the stated limit."""

    reason = "too_large"


class UnknownTaskError(RecordError):
    """The record's CloudEvents type names another task than its topic's."""

    reason = "unknown_task"


class UnsupportedLanguageError(RecordError):
    """The model cannot translate between the languages asked for."""

    reason = "unsupported_language"


class UnknownCollectionError(RecordError):
    """The collection asked for holds no passages."""

    reason = "unknown_collection"


class LateError(RecordError):
    """The record was late, or would have been, and its stream sheds late records."""

    reason = "late"


class EngineError(OutcomeError):
    """A batch did not come back from its replica."""


class ModelFailedError(EngineError):
    """The model raised: some record of the batch is poison."""

    reason = "model_failed"


class OutOfMemoryError(EngineError):
    """The replica ran out of memory on this batch; a smaller one may pass."""

    reason = "out_of_memory"
    retriable = True


class ReplicaDiedError(EngineError):
    """The replica process ended while this batch was in flight."""

    reason = "replica_died"
    retriable = True


class ReplicaTimeoutError(EngineError):
    """The replica did not answer within the watchdog's time and was killed."""

    reason = "replica_timeout"
    retriable = True


class ResultTooLargeError(OutcomeError):
    """The output topic does not take the result for its size; another result of the record might pass."""

    reason = "result_too_large"


class BusError(StreamInferError):
    """A fault of the bus: a partition, a producer or the broker."""


class AccessRefusedError(BusError):
    """The broker does not allow it: who may do what must be changed there, and trying again is no use."""


class PartitionLostError(BusError):
    """The partition was fenced or assigned elsewhere: its work here is dropped, never resent."""


class RecordTooLargeError(BusError):
    """The broker refuses one record of a transaction for its size; nothing of it was committed.

    `index` is the record's place in what was to be published: publish again with another in its place.
    """

    def __init__(self, message: str, index: int) -> None:
        super().__init__(message)
        self.index = index


REASONS: Final = (
    *(error.reason for branch in (RecordError, EngineError) for error in branch.__subclasses__()),
    ResultTooLargeError.reason,
    INTERNAL,
)
"""Every reason a dead letter can have."""
