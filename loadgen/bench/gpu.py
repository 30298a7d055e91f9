"""Rows of a GPU, which are asked for with `--gpu`: the packaged MiniLM on mixed lengths."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Final

from loadgen.bench import contenders
from loadgen.bench.contest import Duel
from loadgen.bench.encoding import ENCODER, contest, encoder_directory, encoder_texts
from loadgen.bench.makers import Maker
from loadgen.bench.rows import Row, not_measured
from loadgen.bench.workshop import Workshop

CUDA: Final = "cuda"
PRECISIONS: Final = {"encode_gpu_int8": "int8", "encode_gpu_bf16": "bf16"}
_DEVICE: Final = Path("/dev/nvidiactl")


def encode_gpu(asked: Collection[str], workshop: Workshop) -> Iterator[Row]:
    """Yield a row for each precision, against the best of transformers and Sentence Transformers."""
    if not _DEVICE.exists():
        yield from (not_measured(key, "no CUDA device here") for key in PRECISIONS if key in asked)
        return
    model = encoder_directory()
    made = (contenders.transformers_pipeline(model), contenders.sentence_transformers(model))
    peers = tuple(contenders.on(CUDA, peer) for peer in made)
    for key, precision in PRECISIONS.items():
        ours = contenders.on(CUDA, contenders.ours("ours", ENCODER, precision=precision))
        held = contest((Duel(key, peers),), ours, encoder_texts(workshop.texts), workshop)
        yield from held.rows(asked, workshop)


MAKERS: Final = (Maker(tuple(PRECISIONS), encode_gpu),)
