"""The service's own engine on sentences, without the recipe around it."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from loadgen.peers.ours import NAME
from loadgen.peers.ours_translation import engine_of
from loadgen.peers.setup import Run, Setup
from stream_infer.schemas import Work


def load(setup: Setup) -> Run:
    """Return the engine as a translator of sentences, in the model's first direction."""
    torch.set_num_threads(setup.threads)
    engine = engine_of(setup)
    direction = engine.backend.info.languages[0]

    def run(texts: Sequence[str]) -> list[str]:
        outputs = engine.run([Work(NAME, text, option=direction) for text in texts])
        return [output.text or "" for output in outputs]

    return run
