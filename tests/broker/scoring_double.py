"""A fast classification model for tests of delivery; the words of a text can make it misbehave."""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np

from stream_infer.engine.specs import ModelSpec
from stream_infer.schemas import ModelInfo, Output, Tokens
from tests.contract.engine_doubles import misbehave

BATCH_SECONDS = 0.004
"""How long a batch takes: long enough for records to be in flight when a test kills the worker."""


SOURCE, REVISION = "python:tests.broker.scoring_double:scorer", "1"
SLOW_BATCH_SECONDS = 0.2
"""How long a batch of the slow one takes: a few hundred records are too much for it."""


class LengthScorer:
    """Labels a text by whether its length in bytes is even; other revisions say the opposite."""

    def __init__(
        self, spec: ModelSpec, batch_seconds: float = BATCH_SECONDS, revision: str = REVISION
    ) -> None:
        self._batch_seconds = batch_seconds
        self.info = ModelInfo(spec.name, SOURCE, revision, "fp32", "cpu", 4096, labels=("even", "odd"))

    def run(self, batch: Sequence[Tokens], options: Sequence[str]) -> list[Output]:
        """Return logits that favour the right label."""
        del options
        misbehave(batch)
        time.sleep(self._batch_seconds)
        rows = np.eye(2, dtype=np.float32)
        shift = self.info.revision != REVISION
        return [Output(vector=rows[(len(tokens.ids) + shift) % 2]) for tokens in batch]


def never(spec: ModelSpec) -> LengthScorer:
    """Load for an hour."""
    time.sleep(3600)
    return LengthScorer(spec)


def scorer(spec: ModelSpec) -> LengthScorer:
    """Return the model."""
    return LengthScorer(spec)


def slow_scorer(spec: ModelSpec) -> LengthScorer:
    """Return the model, slow."""
    return LengthScorer(spec, SLOW_BATCH_SECONDS)


def revised_scorer(spec: ModelSpec) -> LengthScorer:
    """Return the model's next revision."""
    return LengthScorer(spec, revision="2")
