"""A fast embedding model for tests of the side streams; a word in a text can make it misbehave."""

from __future__ import annotations

import time
from collections.abc import Sequence
from zlib import crc32

import numpy as np

from stream_infer.engine.specs import ModelSpec
from stream_infer.schemas import ModelInfo, Output, Tokens
from tests.contract.engine_doubles import misbehave

POISON = "POISON"
BATCH_SECONDS = 0.02
"""How long a batch takes: long enough for a document to be in work when a test ends the process."""


class HashEmbedder:
    """Gives equal texts equal vectors and others, almost surely, different ones."""

    def __init__(self, spec: ModelSpec) -> None:
        self.info = ModelInfo(spec.name, spec.source, "1", "fp32", "cpu", 4096, dimension=4)

    def run(self, batch: Sequence[Tokens], options: Sequence[str]) -> list[Output]:
        """Return a vector for each text, or raise where one is poison."""
        del options
        texts = misbehave(batch)
        if any(POISON in text for text in texts):
            raise ValueError("a text that this model cannot read")
        time.sleep(BATCH_SECONDS)
        return [Output(vector=_vector(text)) for text in texts]


def _vector(text: str) -> np.ndarray[tuple[int], np.dtype[np.float16]]:
    digest = crc32(text.encode())
    return np.array([digest >> shift & 0xFF for shift in (0, 8, 16, 24)], np.float16)


def embedder(spec: ModelSpec) -> HashEmbedder:
    """Return the model."""
    return HashEmbedder(spec)
