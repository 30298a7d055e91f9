"""A label for each text: one piece of work, and a head that turns the model's vector into scores."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from stream_infer.errors import ModelFailedError
from stream_infer.schemas import ClassifyBody, Recipe, ResultBody, Work


class Head(Protocol):
    """What stands between a model's vector and labels."""

    @property
    def labels(self) -> Sequence[str]:
        """The labels, in the order of the scores."""

    def scores(self, vector: NDArray[np.float16 | np.float32]) -> list[float]:
        """Return the probability of each label; they add up to 1."""


def classify(body: ClassifyBody, model: str, head: Head) -> Recipe:
    """Return the likeliest label of the text with the scores of all of them.

    Of labels with equal scores the first wins. `truncated` is there, and true, only when the text
    was longer than the model reads.
    """
    (output,) = yield (Work(model, body.text),)
    if output.vector is None:
        raise ModelFailedError(f"model {model!r} gave no vector to classify")
    scores = head.scores(output.vector)
    score = max(scores)
    result: ResultBody = {
        "label": head.labels[scores.index(score)],
        "score": score,
        "scores": dict(zip(head.labels, scores, strict=True)),
    }
    if output.truncated:
        result["truncated"] = True
    return result
