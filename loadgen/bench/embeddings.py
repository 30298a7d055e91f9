"""Whether a contender's embeddings are those of the model."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

Vectors = NDArray[np.float32]

LEAST_COSINE: Final = 0.9
LEAST_OWN: Final = 0.9
"""The share of the texts whose embedding must be closest to the text's own reference."""


def what_is_wrong(found: Vectors, reference: Vectors) -> str:
    """Return what is wrong with embeddings, [texts, dimension], or nothing."""
    if found.shape != reference.shape:
        return f"shape {found.shape} instead of {reference.shape}"
    if not np.isfinite(found).all():
        return "NaN or infinity"
    similarity = _unit(found) @ _unit(reference).T
    if (least := float(similarity.diagonal().min())) < LEAST_COSINE:
        return f"cosine {least:.3f} to full precision, at least {LEAST_COSINE} asked"
    own = float((similarity.argmax(1) == np.arange(len(found))).mean())
    return "" if own >= LEAST_OWN else f"only {own:.0%} of the texts are closest to themselves"


def cosines(found: Vectors, reference: Vectors) -> Vectors:
    """Return the cosine of each text's embedding to its reference."""
    products: Vectors = (_unit(found) * _unit(reference)).sum(1)
    return products


def _unit(vectors: Vectors) -> Vectors:
    centred = vectors.astype(np.float32)
    unit: Vectors = centred / np.maximum(np.linalg.norm(centred, axis=1, keepdims=True), 1e-12)
    return unit
