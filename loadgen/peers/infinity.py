"""infinity-emb's engine, which batches and sorts by itself, without its HTTP server.

With torch. On a CPU its documentation recommends `engine="optimum"`, which looks for an ONNX file by
the name of a repository on a hub: in a local directory the optimum that it installs does not find it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final

import numpy as np
import torch
from infinity_emb import AsyncEmbeddingEngine, EngineArgs

from loadgen.peers.setup import Run, Setup, Vectors

BATCH: Final = 32


def load(setup: Setup) -> Run:
    """Return the engine at full precision."""
    torch.set_num_threads(setup.threads)
    arguments = EngineArgs(
        model_name_or_path=setup.model,
        engine="torch",
        device=setup.device,
        batch_size=BATCH,
        bettertransformer=False,
        lengths_via_tokenize=True,
        model_warmup=False,
    )
    loop = asyncio.new_event_loop()
    engine = AsyncEmbeddingEngine.from_args(arguments)
    loop.run_until_complete(engine.astart())

    def run(texts: Sequence[str]) -> Vectors:
        vectors, _ = loop.run_until_complete(engine.embed(sentences=list(texts)))
        return np.asarray(vectors, np.float32)

    return run
