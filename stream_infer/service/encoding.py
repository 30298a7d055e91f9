"""How one stream's outcomes become records of its output topics."""

from __future__ import annotations

from stream_infer.bus.batches import OutRecord
from stream_infer.bus.codec import ResultEncoder, letter_encoders
from stream_infer.config import StreamSettings
from stream_infer.errors import ResultTooLargeError
from stream_infer.flow.outcomes import dead_letter
from stream_infer.schemas import DeadLetter, ModelInfo, Outcome, Result


class OutcomeEncoder:
    """Results go to the stream's output topic, dead letters to its dead-letter topic."""

    def __init__(
        self,
        name: str,
        stream: StreamSettings,
        info: ModelInfo,
        reader: ModelInfo | None = None,
        *,
        hides_text: bool = False,
    ) -> None:
        """With `hides_text` dead letters hold no user text."""
        self._name = name
        self._dead_letters = stream.dead_letters
        self._encode_letter, self._encode_bare = letter_encoders(hides_text=hides_text)
        self._results = ResultEncoder(stream, info, name, reader)

    def encode(self, outcome: Outcome) -> tuple[Outcome, OutRecord]:
        """Return the outcome with its record; a result that cannot be encoded becomes a dead letter."""
        if isinstance(outcome, DeadLetter):
            return outcome, self._encode_letter(outcome, self._dead_letters)
        try:
            return outcome, self._results.encode(outcome)
        except Exception as error:  # noqa: BLE001 - the edge of the loop: one result must not stop the others
            return self._refused(outcome, error)

    def shrink(self, outcome: Outcome, record: OutRecord) -> tuple[Outcome, OutRecord]:
        """Return a dead letter instead of a result, and a bare dead letter instead of a whole one."""
        if isinstance(outcome, DeadLetter):
            return outcome, self._encode_bare(outcome, self._dead_letters)
        return self._refused(outcome, _too_large(record))

    def _refused(self, outcome: Result, error: Exception) -> tuple[Outcome, OutRecord]:
        letter = dead_letter(
            outcome.record,
            self._name,
            error,
            "publish",
            request_id=outcome.id,
            arrived=outcome.arrived,
            waits=outcome.waits,
            batches=outcome.batches,
        )
        return letter, self._encode_letter(letter, self._dead_letters)


def _too_large(record: OutRecord) -> ResultTooLargeError:
    """Return what is wrong with a result, and what it is made of: its key alone may be too large."""
    key, value = len(record.key or b""), len(record.value or b"")
    headers = sum(len(name.encode()) + len(content or b"") for name, content in record.headers)
    return ResultTooLargeError(
        f"the result has {key + value + headers} bytes (key {key}, value {value}, headers {headers}), "
        f"more than topic {record.topic} takes"
    )
