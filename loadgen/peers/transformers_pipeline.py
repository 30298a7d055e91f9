"""transformers' `pipeline`, as its documentation shows it: batches of 32 in order of arrival.

`return_tensors` spares it Python lists of every token's numbers. What a batch pads is not told from
tokens in a pipeline's output, so the mean is taken over as many states as the text has tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import torch
from transformers import pipeline

from loadgen.peers.setup import Run, Setup, Vectors
from loadgen.peers.tokens import MAX_TOKENS

BATCH: Final = 32


class Encoder:
    """A feature-extraction pipeline."""

    def __init__(self, pipeline: Any) -> None:
        self._pipeline = pipeline

    def __call__(self, texts: Sequence[str]) -> Vectors:
        """Return the mean over each text's tokens."""
        counts = map(len, self._pipeline.tokenizer(list(texts), truncation=True)["input_ids"])
        states = self._pipeline(list(texts), batch_size=BATCH, return_tensors=True, truncation=True)
        means = [state[0, :count].mean(0).float() for state, count in zip(states, counts, strict=True)]
        return np.stack([mean.cpu().numpy() for mean in means])


def load(setup: Setup) -> Run:
    """Return a pipeline at full precision."""
    return pipeline_of(setup)


def pipeline_of(setup: Setup, **arguments: Any) -> Encoder:
    """Return a pipeline; `arguments` are those of the model."""
    torch.set_num_threads(setup.threads)
    made: Any = pipeline(
        "feature-extraction", model=setup.model, device=setup.device, model_kwargs=arguments or None
    )
    made.tokenizer.model_max_length = MAX_TOKENS
    return Encoder(made)
