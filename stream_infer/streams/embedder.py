"""The side streams' own model: texts in, vectors out, through a replica."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from stream_infer.config import UNMEASURED_BATCH_TOKENS, Settings
from stream_infer.engine.replica import Replica
from stream_infer.engine.sources import resolve
from stream_infer.engine.tokenization import Tokenizer, load_tokenizer
from stream_infer.errors import EngineError, ModelFailedError
from stream_infer.retrieval.passages import vector_space
from stream_infer.schemas import Output, Tokens, Work

Vector = NDArray[np.float16]

THREADS = 1
"""Threads of the side streams' replica unless set: documents have no deadline, events beside them do."""


class Runner(Protocol):
    """What runs batches: a replica, or its double."""

    async def run(
        self, model: str, batch: Sequence[Tokens], options: Sequence[str], *, expected: float
    ) -> list[Output]:
        """Return the outputs of the batch in order, or raise `EngineError`."""
        ...


class ReplicaEmbedder:
    """Embeds texts in batches of at most `max_batch_tokens`, whatever their number.

    A batch that fails retriably is halved; one text is tried `max_attempts` times.
    """

    def __init__(
        self,
        runner: Runner,
        tokenizer: Tokenizer,
        *,
        model: str,
        identity: str,
        max_batch_tokens: int,
        max_attempts: int,
    ) -> None:
        self._runner = runner
        self._tokenizer = tokenizer
        self._model = model
        self._identity = identity
        self._max_batch_tokens = max_batch_tokens
        self._max_attempts = max_attempts

    @property
    def identity(self) -> str:
        """What the vectors were made with."""
        return self._identity

    async def embed(self, texts: Sequence[str]) -> list[Vector]:
        """Return the vector of each text, in order.

        Raises:
            EngineError: the model failed on some text.
        """
        works = [Work(self._model, text) for text in texts]
        tokens = await asyncio.to_thread(self._tokenizer.encode, works)
        vectors = []
        for batch in split_by_tokens(tokens, self._max_batch_tokens):
            vectors += await self._run(batch, attempts_left=self._max_attempts)
        return vectors

    async def _run(self, batch: Sequence[Tokens], *, attempts_left: int) -> list[Vector]:
        try:
            outputs = await self._runner.run(self._model, batch, [""] * len(batch), expected=0.0)
        except EngineError as error:
            if not error.retriable or (attempts_left <= 1 and len(batch) == 1):
                raise
        else:
            return [_vector(output) for output in outputs]
        if len(batch) == 1:
            return await self._run(batch, attempts_left=attempts_left - 1)
        middle = len(batch) // 2
        first = await self._run(batch[:middle], attempts_left=attempts_left)
        return first + await self._run(batch[middle:], attempts_left=attempts_left)


def split_by_tokens(tokens: Sequence[Tokens], max_batch_tokens: int) -> Iterator[list[Tokens]]:
    """Yield batches in order, each within the budget; an item above it goes alone."""
    batch: list[Tokens] = []
    total = 0
    for item in tokens:
        if batch and total + len(item.ids) > max_batch_tokens:
            yield batch
            batch, total = [], 0
        batch.append(item)
        total += len(item.ids)
    if batch:
        yield batch


@asynccontextmanager
async def open_embedder(settings: Settings) -> AsyncIterator[ReplicaEmbedder]:
    """Hold the replica of the side streams' model for as long as the context lasts.

    Raises:
        ConfigError: the model cannot be loaded.
    """
    name = settings.side_streams.model
    model = settings.models[name]
    tokenizer = await asyncio.to_thread(lambda: load_tokenizer(resolve(model.source), model.kind))
    service = settings.service
    async with Replica(
        [model.spec(name)], threads=service.threads or THREADS, watchdog=service.watchdog_ms / 1000
    ) as replica:
        yield ReplicaEmbedder(
            replica,
            tokenizer,
            model=name,
            identity=vector_space(replica.infos[name]),
            max_batch_tokens=model.max_batch_tokens or UNMEASURED_BATCH_TOKENS,
            max_attempts=service.max_attempts,
        )


def _vector(output: Output) -> Vector:
    if output.vector is None:
        raise ModelFailedError("the model returned no vector")
    return output.vector.astype(np.float16)
