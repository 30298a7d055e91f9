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


class LengthScorer:
    """Labels a text by whether its length in bytes is even."""

    def __init__(self, spec: ModelSpec) -> None:
        self.info = ModelInfo(spec.name, spec.source, "1", "fp32", "cpu", 4096, labels=("even", "odd"))

    def run(self, batch: Sequence[Tokens], options: Sequence[str]) -> list[Output]:
        """Return logits that favour the right label."""
        del options
        misbehave(batch)
        time.sleep(BATCH_SECONDS)
        rows = np.eye(2, dtype=np.float32)
        return [Output(vector=rows[len(tokens.ids) % 2]) for tokens in batch]


def never(spec: ModelSpec) -> LengthScorer:
    """Load for an hour."""
    time.sleep(3600)
    return LengthScorer(spec)


def scorer(spec: ModelSpec) -> LengthScorer:
    """Return the model."""
    return LengthScorer(spec)
