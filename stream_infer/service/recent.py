"""The latest late events and dead letters of a worker, for its live page."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

from stream_infer.bus.values import decode_value
from stream_infer.config import StreamSettings
from stream_infer.errors import MalformedRecordError
from stream_infer.schemas import DeadLetter, Outcome, Record, Result

KEPT = 20
"""How many are kept of each kind."""
SHOWN_CHARS = 80
MAX_READ_BYTES = 65_536
"""A longer value is not read for the beginning of its text."""

Entry = dict[str, Any]


class RecentOutcomes:
    """Keeps where and why, and unless told otherwise nothing that producers wrote: no id, no text.

    A message can quote a field or be a model's own, so of it the error's class alone is kept.
    """

    def __init__(self, streams: Mapping[str, StreamSettings], *, shows_text: bool) -> None:
        self._streams = streams
        self._shows_text = shows_text
        self._late: deque[Entry] = deque(maxlen=KEPT)
        self._letters: deque[Entry] = deque(maxlen=KEPT)

    def note(self, outcomes: Sequence[Outcome], *, now: float, at_ms: int) -> None:
        """Keep what is worth it of outcomes committed at `now`, which is `at_ms` on the wall clock."""
        late = [each for each in outcomes if isinstance(each, Result) and each.late]
        letters = [each for each in outcomes if isinstance(each, DeadLetter)]
        # However many there are in a transaction, no more are made than are kept.
        self._late.extend(self._late_event(result, now, at_ms) for result in late[-KEPT:])
        self._letters.extend(self._dead_letter(letter, at_ms) for letter in letters[-KEPT:])

    def as_dict(self) -> dict[str, list[Entry]]:
        """Return both kinds as JSON has them, the newest first."""
        return {"late": [*reversed(self._late)], "dead_letters": [*reversed(self._letters)]}

    def _late_event(self, result: Result, now: float, at_ms: int) -> Entry:
        """What is left between the stages, a task's own work, goes by `other`."""
        stages, publish = result.stages, max(now - result.finished, 0.0)
        parts = {name: getattr(stages, name) for name in ("bus", "queue", "batch", "engine")}
        other = max(stages.total - sum(parts.values()), 0.0)
        return {
            **self._place(result, at_ms),
            "budget": self._streams[result.stream].latency_budget_ms / 1000,
            "total": stages.total + publish,
            "stages": {**parts, "other": other, "publish": publish},
        }

    def _dead_letter(self, letter: DeadLetter, at_ms: int) -> Entry:
        fault = letter.error if self._shows_text else letter.error.partition(":")[0]
        return {
            **self._place(letter, at_ms),
            "reason": letter.reason,
            "stage": letter.stage,
            "attempts": letter.attempts,
            "fault": fault,
        }

    def _place(self, outcome: Outcome, at_ms: int) -> Entry:
        shown = {"id": outcome.id, "text": _beginning(outcome.record)} if self._shows_text else {}
        return {"at_ms": at_ms, "stream": outcome.stream, "place": outcome.record.position, **shown}


def _beginning(record: Record) -> str | None:
    """Return how the record's text begins, or None where none can be read."""
    value = record.value or b""
    if len(value) > MAX_READ_BYTES:
        return None
    try:
        fields = decode_value(value, dict(record.headers).get("content-type"))
    except MalformedRecordError:
        return None
    text = fields.get("text", fields.get("question"))
    return text[:SHOWN_CHARS] if isinstance(text, str) else None
