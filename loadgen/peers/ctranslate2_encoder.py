"""CTranslate2's encoder in 8 bits.

Converted and run as its documentation has it (opennmt.net/CTranslate2, "Transformers", "Performance
tips"): `int8` weights and compute type, batches of like lengths. A batch on all threads was as fast as
one on each.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import ctranslate2
import numpy as np
from ctranslate2.converters import TransformersConverter

from loadgen.peers.setup import Run, Setup, Vectors
from loadgen.peers.tokens import load_tokenizer
from loadgen.peers.windows import Rows, embed_by_length, mean_over_tokens, padded

CONVERTED: Final = "ctranslate2"


def prepare(setup: Setup) -> None:
    """Convert the model."""
    TransformersConverter(setup.model).convert(str(setup.made(CONVERTED)), quantization="int8")


class Encoder:
    """A converted encoder, and the tokenizer before it."""

    def __init__(self, encoder: Any, setup: Setup) -> None:
        self._encoder = encoder
        self._tokenizer = load_tokenizer(setup)

    def __call__(self, texts: Sequence[str]) -> Vectors:
        """Return the mean over each text's tokens."""
        return embed_by_length(self._tokenizer.encode(texts), self._embed)

    def _embed(self, rows: Rows) -> Vectors:
        hidden = np.array(self._encoder.forward_batch([list(row) for row in rows]).last_hidden_state)
        return mean_over_tokens(hidden, padded(rows)[1])


def load(setup: Setup) -> Run:
    """Return the converted model as an encoder."""
    encoder = ctranslate2.Encoder(
        str(setup.made(CONVERTED)), compute_type="int8", intra_threads=setup.threads
    )
    return Encoder(encoder, setup)
