"""ONNX Runtime over a graph quantised to 8 bits; see `onnx_export` for how it is made.

One text runs on all threads. Many run a batch a thread, which was a third faster than all threads on
one batch; a session may run from several threads at once (onnxruntime.ai, "Thread management").
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, Final

import onnxruntime

from loadgen.peers.setup import Run, Setup, Vectors
from loadgen.peers.tokens import load_tokenizer
from loadgen.peers.windows import Rows, embed_by_length, mean_over_tokens, padded

QUANTISED: Final = "int8.onnx"
INPUTS: Final = ("input_ids", "attention_mask")


class Encoder:
    """A session of all threads, one of a single thread that is run from all of them, and the tokenizer."""

    def __init__(self, setup: Setup) -> None:
        self._wide = _session(setup, setup.threads)
        self._narrow = _session(setup, 1)
        self._workers = ThreadPoolExecutor(setup.threads)
        self._tokenizer = load_tokenizer(setup)

    def __call__(self, texts: Sequence[str]) -> Vectors:
        """Return the mean over each text's tokens."""
        rows = self._tokenizer.encode(texts)
        if len(rows) == 1:
            return _embed(self._wide, rows)
        return embed_by_length(rows, partial(_embed, self._narrow), self._workers.map)


def _session(setup: Setup, threads: int) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    return onnxruntime.InferenceSession(setup.made(QUANTISED), options, providers=["CPUExecutionProvider"])


def _embed(session: Any, rows: Rows) -> Vectors:
    ids, mask = padded(rows)
    (hidden,) = session.run(None, dict(zip(INPUTS, (ids, mask), strict=True)))
    return mean_over_tokens(hidden, mask)


def load(setup: Setup) -> Run:
    """Return the quantised model as an encoder."""
    return Encoder(setup)
