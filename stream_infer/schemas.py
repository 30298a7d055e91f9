"""The data that the rooms exchange: records, requests, work, outputs and outcomes.

What is made for every event, whatever comes of it, is a named tuple: it takes a quarter of the time of a
frozen dataclass.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

MAX_TOP_K = 50
"""The most passages that a request may ask to be answered from."""

Headers = Sequence[tuple[str, bytes | None]]


class Task(StrEnum):
    """What a stream does with its records."""

    CLASSIFY = "classify"
    TRANSLATE = "translate"
    ANSWER = "answer"


class Ordering(StrEnum):
    """Whose results appear in input order: those of a key, of the whole partition, or nobody's."""

    KEY = "key"
    PARTITION = "partition"
    NONE = "none"


@dataclass(frozen=True, slots=True)
class Partition:
    """One partition of an input topic."""

    topic: str
    partition: int


class Record(NamedTuple):
    """One input record as it came from the bus, kept whole so that a dead letter can carry it."""

    topic: str
    partition: int
    offset: int
    timestamp_ms: int
    key: bytes | None
    value: bytes | None
    headers: Headers = ()

    @property
    def position(self) -> str:
        """`topic/partition/offset`: the default id, and how messages name the record."""
        return f"{self.topic}/{self.partition}/{self.offset}"

    @property
    def size(self) -> int:
        """The bytes of its key, value and headers."""
        headers = sum(len(name) + len(value or b"") for name, value in self.headers)
        return len(self.key or b"") + len(self.value or b"") + headers


@dataclass(frozen=True, slots=True)
class ClassifyBody:
    """Put a label on `text`."""

    text: str


@dataclass(frozen=True, slots=True)
class TranslateBody:
    """Translate `text`; None leaves a language to the model's only or default one."""

    text: str
    source: str | None = None
    target: str | None = None


@dataclass(frozen=True, slots=True)
class AnswerBody:
    """Answer `question` from `context`, or from the passages of `collection`."""

    question: str
    context: str | None = None
    collection: str | None = None
    top_k: int | None = None


Body = ClassifyBody | TranslateBody | AnswerBody


class Request(NamedTuple):
    """A decoded record; texts in `body` are prepared and not empty.

    `deadline` and `arrived` are monotonic seconds.
    """

    id: str
    stream: str
    body: Body
    record: Record
    arrived: float
    deadline: float


class Work(NamedTuple):
    """One piece of text for one model; equal work has equal output, which makes it cacheable.

    `pair` is the second text of models that read two (extractive readers), `option` what else
    decides the output (the translation direction `en-pt`), and both are part of the cache key.
    """

    model: str
    text: str
    pair: str | None = None
    option: str = ""


@dataclass(frozen=True, slots=True)
class Tokens:
    """A piece of work as the model reads it: `ids` is int32 [length]."""

    ids: NDArray[np.int32]
    truncated: bool = False


@dataclass(frozen=True, slots=True)
class Output:
    """What a model made of one piece of work: a vector (float16 or float32, [n]) or a text."""

    vector: NDArray[np.float16 | np.float32] | None = None
    text: str | None = None
    truncated: bool = False


ResultBody = dict[str, object]
Recipe = Generator[Sequence[Work], Sequence[Output], ResultBody]
"""How a task makes a result: it yields work, is sent the outputs in the same order, and returns
the result's body. It does no I/O, so a recipe can be driven by hand. It may raise `RecordError`."""


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """What a loaded model says of itself; stamped on results and metrics.

    `agreement` is the share of the packaged sample on which int8 and full precision agree
    (1.0 when nothing was quantised); `languages` are directions such as `en-pt`; `labels` are
    in the order of the output vector. `batch_tokens` and `threads` are what the model was found to run
    best with, 0 where that was not measured.
    """

    name: str
    source: str
    revision: str
    precision: str
    device: str
    max_tokens: int
    dimension: int = 0
    agreement: float = 1.0
    labels: tuple[str, ...] = ()
    languages: tuple[str, ...] = ()
    batch_tokens: int = 0
    threads: int = 0


class Stages(NamedTuple):
    """Where one record's time went, in seconds: the answer to "why was my event late".

    `queue` is the wait for the tokenizer and tokenising, `batch` the wait in the lane, `engine` the
    run of the batch. `total` is from the producer's timestamp to the outcome.
    """

    bus: float = 0.0
    queue: float = 0.0
    batch: float = 0.0
    engine: float = 0.0
    total: float = 0.0


class Wait(NamedTuple):
    """One time that a record waited for models: when it began, was queued, left in a batch, and ended.

    Monotonic seconds, in this order. Where several batches served it, the last one counts.
    """

    began: float
    queued: float
    left: float
    ended: float


@dataclass(frozen=True, slots=True)
class BatchRun:
    """A batch that ran, by its `number` in this process; `error` is the reason if it failed.

    `began` and `ended` are monotonic seconds.
    """

    number: int
    model: str
    items: int
    tokens: int
    began: float
    ended: float
    error: str | None = None


class Result(NamedTuple):
    """A request that came out well; `finished` is in monotonic seconds.

    What came from the cache has neither `waits` nor `batches`.
    """

    record: Record
    id: str
    stream: str
    body: ResultBody
    model: str
    stages: Stages = Stages()
    late: bool = False
    finished: float = 0.0
    waits: tuple[Wait, ...] = ()
    batches: tuple[BatchRun, ...] = ()

    @property
    def arrived(self) -> float:
        """When the record was fetched."""
        return self.finished - (self.stages.total - self.stages.bus)


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A record that could not be processed, and why, in words a person understands.

    `arrived` is in monotonic seconds; None where nobody noted it.
    """

    record: Record
    id: str
    stream: str
    reason: str
    error: str
    stage: str
    attempts: int = 0
    arrived: float | None = None
    waits: tuple[Wait, ...] = ()
    batches: tuple[BatchRun, ...] = ()


Outcome = Result | DeadLetter
