"""How right the models are, by what people say is right: a rolling confusion matrix for each model.

Results and feedback of one id are a pair, whichever came first. Only what lies within the window
counts, which ends at the newest timestamp seen. Of several results that a stream gave under one id,
and of several feedbacks on it, the one with the latest timestamp stands. So the state is a function
of what was said and not of the order in which it was read: reading it again changes nothing, and a
recomputation over the same topics gives the same counts.

The state is bounded by the window and by `max_ids`, the number of ids: above it the oldest
statements go first, which is the one case in which the order of reading matters.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from heapq import heappop, heappush
from statistics import fmean
from typing import Any

import msgpack

from stream_infer.bus.batches import OutRecord
from stream_infer.bus.values import CONTENT_TYPES, encode_value
from stream_infer.streams.observations import Feedback, LabelledResult, Observation, from_fields, to_fields

Statements = dict[str | None, Observation]
"""What was said under one id: by each stream, and by people (None)."""


@dataclass(frozen=True, slots=True, order=True)
class Model:
    """Whose quality it is: every revision has its own."""

    name: str
    revision: str

    @property
    def key(self) -> bytes:
        """The key of its records."""
        return f"{self.name}@{self.revision}".encode()


Confusion = Counter[tuple[str, str]]
"""How many pairs have this right label and this given one."""


class RollingQuality:
    """The pairs within the window, by id and counted by model."""

    def __init__(self, window_ms: int, max_ids: int, stored: Iterable[tuple[bytes, bytes]] = ()) -> None:
        self._window_ms = window_ms
        self._max_ids = max_ids
        self._newest_ms = 0
        self._statements: dict[str, Statements] = {}
        self._ages: list[tuple[int, str]] = []
        self._confusions: dict[Model, Confusion] = {}
        self._changed_ids: set[str] = set()
        self._changed_models: set[Model] = set()
        for _, value in stored:
            for observation in decode_statements(value):
                self.add(observation)
        # What is as it was stored need not be stored again; what is too old by now has to go.
        self._changed_ids -= self._statements.keys()
        self._changed_models.clear()

    def add(self, observation: Observation) -> None:
        """Take the observation in, unless a later one stands or it is too old."""
        self._newest_ms = max(self._newest_ms, observation.timestamp_ms)
        statements = self._statements.get(observation.id, {})
        speaker = observation.stream if isinstance(observation, LabelledResult) else None
        if observation.timestamp_ms > self._horizon_ms and _stands(observation, statements.get(speaker)):
            self._replace(observation.id, {**statements, speaker: observation})
            heappush(self._ages, (observation.timestamp_ms, observation.id))
        self._drop_oldest()

    def take_changed_ids(self) -> dict[str, Statements | None]:
        """Return what is to be stored since the last call; None where an id is to be forgotten."""
        changed, self._changed_ids = self._changed_ids, set()
        return {identity: self._statements.get(identity) for identity in sorted(changed)}

    def take_changed_models(self) -> dict[Model, Confusion]:
        """Return the confusion matrices that changed since the last call."""
        changed, self._changed_models = self._changed_models, set()
        return {model: self._confusions.get(model, Counter()) for model in sorted(changed)}

    @property
    def _horizon_ms(self) -> int:
        return self._newest_ms - self._window_ms

    def _drop_oldest(self) -> None:
        while self._ages and (self._ages[0][0] <= self._horizon_ms or len(self._statements) > self._max_ids):
            age, identity = heappop(self._ages)
            statements = self._statements.get(identity, {})
            kept = {who: said for who, said in statements.items() if said.timestamp_ms > age}
            if len(kept) < len(statements):
                self._replace(identity, kept)

    def _replace(self, identity: str, statements: Statements) -> None:
        self._count(self._statements.pop(identity, {}), -1)
        self._count(statements, 1)
        if statements:
            self._statements[identity] = statements
        self._changed_ids.add(identity)

    def _count(self, statements: Statements, step: int) -> None:
        for model, pair in _pairs(statements):
            confusion = self._confusions.setdefault(model, Counter())
            confusion[pair] += step
            if not confusion[pair]:
                del confusion[pair]
            if not confusion:
                del self._confusions[model]
            self._changed_models.add(model)


def _stands(observation: Observation, before: Observation | None) -> bool:
    """Whether the observation replaces the one before it; records of one moment go by their place."""
    if before is None:
        return True
    return (observation.timestamp_ms, observation.position) > (before.timestamp_ms, before.position)


def _pairs(statements: Statements) -> Iterator[tuple[Model, tuple[str, str]]]:
    feedback = statements.get(None)
    if isinstance(feedback, Feedback):
        for said in statements.values():
            if isinstance(said, LabelledResult):
                yield Model(said.model, said.revision), (feedback.label, said.label)


@dataclass(frozen=True, slots=True)
class LabelQuality:
    """How right a model is on one label; None where nothing was given or nothing was right."""

    precision: float | None
    recall: float | None
    f1: float
    support: int


def score_labels(confusion: Mapping[tuple[str, str], int]) -> dict[str, LabelQuality]:
    """Return the quality by label, of every label that was right or given."""
    right: Counter[str] = Counter()
    given: Counter[str] = Counter()
    for (right_label, given_label), count in confusion.items():
        right[right_label] += count
        given[given_label] += count
    return {
        label: _score_label(confusion.get((label, label), 0), given[label], right[label])
        for label in sorted(right.keys() | given.keys())
    }


def _score_label(hits: int, given: int, right: int) -> LabelQuality:
    return LabelQuality(
        precision=hits / given if given else None,
        recall=hits / right if right else None,
        f1=2 * hits / (given + right),
        support=right,
    )


def quality_record(model: Model, confusion: Confusion, window_ms: int, topic: str) -> OutRecord:
    """Return a model's quality as a record; the last record of a key stands."""
    labels = score_labels(confusion)
    pairs = confusion.total()
    matrix: dict[str, dict[str, int]] = {}
    for (right, given), count in sorted(confusion.items()):
        matrix.setdefault(right, {})[given] = count
    fields: dict[str, Any] = {
        "model": model.name,
        "revision": model.revision,
        "window_ms": window_ms,
        "pairs": pairs,
        "accuracy": sum(confusion[label, label] for label in labels) / pairs if pairs else None,
        "macro_f1": fmean(label.f1 for label in labels.values()) if labels else None,
        "labels": {name: _label_fields(label) for name, label in labels.items()},
        "confusion": matrix,
    }
    return OutRecord(
        topic, model.key, encode_value(fields, "msgpack"), [("content-type", CONTENT_TYPES["msgpack"])]
    )


def _label_fields(label: LabelQuality) -> dict[str, float | None]:
    return {
        "precision": label.precision,
        "recall": label.recall,
        "f1": label.f1,
        "support": label.support,
    }


def encode_statements(statements: Statements) -> bytes:
    """Return what was said under one id as the table stores it."""
    packed: bytes = msgpack.packb([to_fields(said) for said in statements.values()])
    return packed


def decode_statements(value: bytes) -> list[Observation]:
    """Return what was stored."""
    return [from_fields(fields) for fields in msgpack.unpackb(value)]
