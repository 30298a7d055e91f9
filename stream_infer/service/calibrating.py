"""Calibration of a worker's models at its start: runs of a packaged sample on the replicas themselves."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import accumulate, cycle
from time import monotonic
from typing import Final

import structlog

from stream_infer.config import UNMEASURED_BATCH_TOKENS, ModelSettings, Settings
from stream_infer.engine.calibration import Calibration, Trial, calibrate
from stream_infer.engine.calibration_store import CalibrationStore, machine_conditions
from stream_infer.engine.keeping import cache_directory
from stream_infer.engine.replica import Replica
from stream_infer.engine.sample import SENTENCES
from stream_infer.engine.sources import SourceKind
from stream_infer.engine.specs import ModelKind
from stream_infer.engine.tokenization import Tokenizer
from stream_infer.engine.translation_sample import sample_sentences
from stream_infer.errors import EngineError
from stream_infer.flow.cost import CostModel
from stream_infer.flow.lane import Lane, LaneLimits
from stream_infer.retrieval.cache import model_identity
from stream_infer.schemas import ModelInfo, Tokens, Work
from stream_infer.service.disturbance import OtherLoad, disturbs
from stream_infer.service.running import Runner

_LONGEST_TEXT: Final = 4
"""Sentences in the sample's longest text."""

log = structlog.get_logger(__name__)


class ReplicaTrials:
    """Runs batches of a sample on all replicas at once, as they would under load."""

    def __init__(self, replicas: Sequence[Runner], model: str, sample: Sequence[Tokens], option: str) -> None:
        self._replicas = replicas
        self._model = model
        self._sample = sample
        self._option = option

    async def run(self, tokens: int, threads: int) -> Trial:
        """Run a batch of about so many tokens; its time is that of the slowest replica.

        Raises:
            EngineError: it failed.
        """
        batch = self._batch(tokens)
        options = [self._option] * len(batch)
        runs = (
            replica.run(self._model, batch, options, expected=0.0, threads=threads)
            for replica in self._replicas
        )
        started = monotonic()
        for outcome in await asyncio.gather(*runs, return_exceptions=True):
            if isinstance(outcome, BaseException):
                raise outcome
        return Trial(sum(len(item.ids) for item in batch), monotonic() - started)

    def _batch(self, tokens: int) -> list[Tokens]:
        lengths = accumulate(len(item.ids) for item in cycle(self._sample))
        count = next(number for number, total in enumerate(lengths, 1) if total >= tokens)
        texts = cycle(self._sample)
        return sorted((next(texts) for _ in range(count)), key=lambda item: len(item.ids))


async def calibrate_models(
    settings: Settings, replicas: Sequence[Replica], tokenizers: Mapping[str, Tokenizer]
) -> dict[str, Calibration]:
    """Return how each model runs best, from what was found before or by measuring now.

    Left out are models whose batches the settings size, models of one's own, those that generate,
    any that fails on the sample, and any whose runs others disturbed: a busy machine tells little, and
    what it told would be remembered.
    """
    directory = cache_directory()
    store = CalibrationStore(directory and directory / "calibrations")
    shared = {**machine_conditions(), "threads": replicas[0].threads, "replicas": len(replicas)}
    found = {}
    for name, model in settings.used_models.items():
        if not _is_measured(model):
            continue
        info = replicas[0].infos[name]
        conditions = {**shared, "model": model_identity(info)}
        calibration = store.find(conditions)
        if calibration is None:
            calibration = await _measure(model, info, replicas, tokenizers[name])
            if calibration is None:
                continue
            store.keep(conditions, calibration)
        found[name] = calibration
    return found


def calibrated(info: ModelInfo, calibration: Calibration | None) -> ModelInfo:
    """Return what a model says of itself, with what was found about it."""
    if calibration is None:
        return info
    return replace(info, batch_tokens=calibration.batch_tokens, threads=calibration.threads)


def make_lane(name: str, model: ModelSettings, max_items: int, calibration: Calibration | None) -> Lane:
    """Return a model's queue, which expects of its batches what the measured runs took."""
    measured = calibration.batch_tokens if calibration else UNMEASURED_BATCH_TOKENS
    cost = CostModel()
    for trial in calibration.trials if calibration else ():
        cost.observe(trial.tokens, trial.seconds)
    return Lane(name, LaneLimits(model.max_batch_tokens or measured, max_items), cost)


async def _measure(
    model: ModelSettings, info: ModelInfo, replicas: Sequence[Replica], tokenizer: Tokenizer
) -> Calibration | None:
    works = _sample(model.kind, info)
    sample = await asyncio.to_thread(tokenizer.encode, works)
    trials = ReplicaTrials(replicas, info.name, sample, works[0].option)
    started, others = monotonic(), OtherLoad()
    threads = replicas[0].threads
    try:
        calibration = await calibrate(trials.run, threads)
    except EngineError as error:
        log.warning("calibration_failed", model=info.name, error=str(error))
        return None
    took, busy = monotonic() - started, others.cores()
    is_disturbed = disturbs(busy, threads * len(replicas), len(os.sched_getaffinity(0)))
    log.info(
        "model_calibrated",
        model=info.name,
        took_ms=round(1000 * took),
        other_cores=round(busy, 2),
        is_used=not is_disturbed,
    )
    return None if is_disturbed else calibration


def _is_measured(model: ModelSettings) -> bool:
    is_own = model.source.partition(":")[0] == SourceKind.PYTHON
    return model.max_batch_tokens is None and not is_own and model.kind is not ModelKind.GENERATE


def _sample(kind: ModelKind, info: ModelInfo) -> list[Work]:
    """Return work that is typical of a model of this kind: sentences to translate, texts to the others."""
    if kind is ModelKind.TRANSLATE:
        direction = info.languages[0]
        sentences = sample_sentences(direction.partition("-")[0])
        return [Work(info.name, sentence, option=direction) for sentence in sentences]
    texts = [
        " ".join(SENTENCES[start : start + 1 + start % _LONGEST_TEXT]) for start in range(len(SENTENCES))
    ]
    if kind is ModelKind.EXTRACT:
        return [Work(info.name, question, pair=text) for question, text in zip(SENTENCES, texts, strict=True)]
    return [Work(info.name, text) for text in texts]
