from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from stream_infer.errors import ModelFailedError
from stream_infer.schemas import ClassifyBody, Output, ResultBody, Work
from stream_infer.tasks.classification import classify


class PlainHead:
    """Takes the vector's items as the scores."""

    labels: Sequence[str] = ("negative", "neutral", "positive")

    def scores(self, vector: NDArray[np.float16 | np.float32]) -> list[float]:
        """Return the items as they are."""
        return [float(value) for value in vector]


def classified(output: Output) -> ResultBody:
    recipe = classify(ClassifyBody("good"), "sentiment", PlainHead())
    assert (Work("sentiment", "good"),) == tuple(next(recipe))
    with pytest.raises(StopIteration) as stop:
        recipe.send([output])
    return stop.value.value  # type: ignore[no-any-return]  # StopIteration is untyped


def test_likeliest_label_wins() -> None:
    assert {
        "label": "positive",
        "score": 0.625,
        "scores": {"negative": 0.125, "neutral": 0.25, "positive": 0.625},
    } == classified(Output(vector=np.array([0.125, 0.25, 0.625], np.float32)))


def test_first_of_equal_labels_wins() -> None:
    assert "negative" == classified(Output(vector=np.array([0.4, 0.2, 0.4], np.float32)))["label"]


def test_truncation_is_flagged() -> None:
    output = Output(vector=np.array([1, 0, 0], np.float32), truncated=True)

    assert classified(output)["truncated"] is True


def test_model_without_vector_is_a_model_fault() -> None:
    recipe = classify(ClassifyBody("good"), "sentiment", PlainHead())
    next(recipe)

    with pytest.raises(ModelFailedError, match="sentiment"):
        recipe.send([Output(text="good")])
