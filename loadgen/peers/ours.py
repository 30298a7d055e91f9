"""The service's own engine, as a replica runs it: tokenised, batched by its lane, packed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np
import torch

import stream_infer.engine.encoder  # noqa: F401 - torch and transformers are no part of a model's weights
from loadgen.peers.setup import Run, Setup, Vectors
from stream_infer.config import UNMEASURED_BATCH_TOKENS, ModelSettings, ServiceSettings
from stream_infer.engine.backend import load_backend
from stream_infer.engine.sources import resolve
from stream_infer.engine.specs import ModelKind, Precision
from stream_infer.engine.tokenization import load_tokenizer
from stream_infer.flow.lane import Lane, LaneLimits
from stream_infer.flow.pending import Batch, Pending
from stream_infer.schemas import Output, Work

NAME: Final = "model"
_FAR: Final = 1e9
_SPACING: Final = 1e-3


class Engine:
    """A model, its tokenizer and its lane."""

    def __init__(self, settings: ModelSettings) -> None:
        self._settings = settings
        self.tokenizer = load_tokenizer(resolve(settings.source), settings.kind)
        self.backend = load_backend(settings.spec(NAME))

    def run(self, works: Sequence[Work]) -> list[Output]:
        """Return the output of each piece of work, run in the batches that the service would form."""
        tokens = self.tokenizer.encode(works)
        pieces = [Pending(b"", work, _FAR + place * _SPACING) for place, work in enumerate(works)]
        for piece, encoding in zip(pieces, tokens, strict=True):
            piece.tokens, piece.size = encoding, len(encoding.ids)
        outputs: dict[int, Output] = {}
        for batch in self._batches(pieces):
            found = self.backend.run(batch.inputs, batch.options)
            outputs |= zip(map(id, batch.items), found, strict=True)
        return [outputs[id(piece)] for piece in pieces]

    def _batches(self, pieces: Sequence[Pending]) -> Iterator[Batch]:
        limits = LaneLimits(
            self._settings.max_batch_tokens or UNMEASURED_BATCH_TOKENS, ServiceSettings().max_batch_items
        )
        lane = Lane(NAME, limits)
        for piece in pieces:
            lane.add(piece)
        lane.settle(0.0)
        while not lane.is_empty:
            yield lane.take(0.0)


def load(setup: Setup) -> Run:
    """Return the engine as an encoder."""
    torch.set_num_threads(setup.threads)
    settings = ModelSettings(
        kind=ModelKind.EMBED,
        source=setup.model,
        precision=Precision(setup.precision),
        device=setup.device,
        min_agreement=setup.min_agreement,
    )
    engine = Engine(settings)

    def run(texts: Sequence[str]) -> Vectors:
        outputs = engine.run([Work(NAME, text) for text in texts])
        return np.stack([output.vector for output in outputs if output.vector is not None]).astype(np.float32)

    return run
