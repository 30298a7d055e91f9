"""Sentence Transformers, as its documentation shows it: `encode`, which sorts by length itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
import torch
from sentence_transformers import SentenceTransformer

from loadgen.peers.setup import Run, Setup, Vectors

BATCH: Final = 32


def load(setup: Setup) -> Run:
    """Return the model at full precision."""
    torch.set_num_threads(setup.threads)
    model = SentenceTransformer(setup.model, device=setup.device)

    def run(texts: Sequence[str]) -> Vectors:
        vectors = model.encode(list(texts), batch_size=BATCH, show_progress_bar=False)
        return np.asarray(vectors, np.float32)

    return run
