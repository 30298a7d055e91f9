"""A classification is the same to the bit alone, in shuffled batches and from cache; no bus."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from time import monotonic

import pytest

from stream_infer.config import Settings
from stream_infer.config_loading import load_settings
from stream_infer.metrics import Metrics
from stream_infer.retrieval.index import PassageIndex
from stream_infer.schemas import ClassifyBody, Outcome, Record, Request, Result, ResultBody
from stream_infer.service.inference import Inference

pytestmark = [pytest.mark.model, pytest.mark.quality, pytest.mark.slow]

STREAM = "classify"


class Classifier:
    """Submits texts to an engine and awaits their results."""

    def __init__(self, settings: Settings) -> None:
        metrics = Metrics(settings.streams, settings.used_models)
        self.inference = Inference(settings, metrics, PassageIndex(), self._deliver)
        self._results: dict[str, ResultBody] = {}
        self._changed = asyncio.Event()

    async def classify(self, texts: Sequence[str]) -> list[ResultBody]:
        """Return the results of texts that are submitted together."""
        self._results.clear()
        self.inference.submit([self._request(place, text) for place, text in enumerate(texts)])
        while len(self._results) < len(texts):
            self._changed.clear()
            await self._changed.wait()
        return [self._results[str(place)] for place in range(len(texts))]

    def _request(self, place: int, text: str) -> Request:
        now = monotonic()
        record = Record("texts", 0, place, 0, None, None)
        return Request(str(place), STREAM, ClassifyBody(text), record, now, now + 60.0)

    def _deliver(self, outcomes: Sequence[Outcome]) -> None:
        for outcome in outcomes:
            assert isinstance(outcome, Result), outcome
            self._results[outcome.id] = outcome.body
        self._changed.set()


def settings(cache_bytes: int) -> Settings:
    """Only the built-in classification stream, with so large a cache."""
    stream = load_settings().streams[STREAM].model_dump()
    return load_settings(streams={STREAM: stream}, cache={"max_bytes": cache_bytes})


@pytest.mark.timeout(600)
async def test_500_texts_alone_shuffled_and_cached(real_texts: list[str]) -> None:
    shuffled = random.Random(3).sample(real_texts, len(real_texts))
    uncached, cached = Classifier(settings(0)), Classifier(settings(1 << 28))
    async with uncached.inference, asyncio.TaskGroup() as tasks:
        running = tasks.create_task(uncached.inference.run())
        alone = {text: (await uncached.classify([text]))[0] for text in real_texts}
        running.cancel()
    async with cached.inference, asyncio.TaskGroup() as tasks:
        running = tasks.create_task(cached.inference.run())
        together = await cached.classify(shuffled)
        again = await cached.classify(real_texts)
        running.cancel()

    assert 500 == len(alone)
    assert [alone[text] for text in shuffled] == together
    assert [alone[text] for text in real_texts] == again
    assert len(real_texts) <= cached.inference.cache.hits
