"""Measuring a stream's quality: its examples through the same engine as events, without a bus."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from time import monotonic

from stream_infer.bus.client_codec import encode_request
from stream_infer.bus.codec import decode_request
from stream_infer.bus.values import CONTENT_TYPES, decode_value
from stream_infer.config import Settings
from stream_infer.errors import ConfigError, RecordError
from stream_infer.evaluation.examples import Example, read_examples
from stream_infer.evaluation.scores import evaluate
from stream_infer.metrics import Metrics
from stream_infer.retrieval.documents import document_of
from stream_infer.retrieval.index import PassageIndex
from stream_infer.retrieval.passages import Document
from stream_infer.schemas import Outcome, Record, Request, Result, ResultBody, Task
from stream_infer.service.inference import Inference
from stream_infer.streams.documents import embed_passages
from stream_infer.streams.embedder import open_embedder

_JSON = CONTENT_TYPES["json"]
_PATIENCE_MS = 3_600_000
"""The latency budget of an example: quality has no hurry."""


async def evaluate_file(
    settings: Settings, task: Task, path: Path, documents: Path | None = None
) -> dict[str, float]:
    """Return the metrics of the task's first stream on a file of examples.

    Questions without a context are answered from the file of `documents`, one JSON object a line:
    `{"document", "text"}`, and `collection` and `title`.

    Raises:
        ConfigError: a file cannot be read or a line of it is faulty, or no stream does the task.
    """
    stream = next((name for name, each in settings.streams.items() if each.task is task), None)
    if stream is None:
        raise ConfigError(f"streams: none does {task}")
    examples = read_examples(task, _lines(path), str(path))
    index = await _index(settings, documents) if documents else PassageIndex()
    only = settings.model_copy(update={"streams": {stream: settings.streams[stream]}})
    return evaluate(task, examples, await _Evaluation(only, stream, index).run(examples))


async def _index(settings: Settings, path: Path) -> PassageIndex:
    """Return the passages of a file of documents, embedded as the side streams do it."""
    documents = _read_documents(path, settings.retrieval.default_collection)
    index = PassageIndex()
    async with open_embedder(settings) as embedder:
        for document in documents:
            for indexed in await embed_passages(document, embedder):
                index.upsert(indexed.passage, indexed.vector)
    return index


class _Evaluation:
    """Runs examples and gathers their results in order; None where an example was refused."""

    def __init__(self, settings: Settings, stream: str, index: PassageIndex) -> None:
        self._settings = settings
        self._name = stream
        self._results: dict[int, ResultBody | None] = {}
        self._finished = asyncio.Event()
        self._expected = 0
        metrics = Metrics(settings.streams, settings.used_models)
        self._inference = Inference(settings, metrics, index, self._deliver)

    async def run(self, examples: Sequence[Example]) -> list[ResultBody | None]:
        """Return a result for each example."""
        self._expected = len(examples)
        async with self._inference, asyncio.TaskGroup() as group:
            running = group.create_task(self._inference.run())
            self._submit(examples)
            await self._finished.wait()
            running.cancel()
        return [self._results[place] for place in range(len(examples))]

    def _submit(self, examples: Sequence[Example]) -> None:
        """Take the examples the way of events: through the codec, which prepares and may refuse them."""
        requests = []
        for place, example in enumerate(examples):
            try:
                requests.append(self._decode(place, example))
            except RecordError:
                self._results[place] = None
        self._inference.submit(requests)
        self._note_progress()

    def _decode(self, place: int, example: Example) -> Request:
        stream, limits = self._settings.streams[self._name], self._settings.service
        sent = encode_request(example.body, stream.input, str(place))
        record = Record(stream.input, 0, place, -1, None, sent.value, sent.headers)
        patient = stream.model_copy(update={"latency_budget_ms": _PATIENCE_MS})
        return decode_request(record, self._name, patient, limits, now=monotonic(), wall_ms=0)

    def _deliver(self, outcomes: Sequence[Outcome]) -> None:
        for outcome in outcomes:
            self._results[int(outcome.id)] = outcome.body if isinstance(outcome, Result) else None
        self._note_progress()

    def _note_progress(self) -> None:
        if len(self._results) == self._expected:
            self._finished.set()


def _read_documents(path: Path, default_collection: str) -> list[Document]:
    documents: list[Document] = []
    faults: list[str] = []
    for number, line in enumerate(_lines(path), 1):
        if not line.strip():
            continue
        try:
            documents.append(document_of(decode_value(line.encode(), _JSON), default_collection))
        except RecordError as error:
            faults.append(f"{path}:{number}: {error}")
    if faults:
        raise ConfigError("\n".join(faults))
    return documents


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from error
