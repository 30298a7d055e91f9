from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from stream_infer.errors import ModelFailedError
from stream_infer.schemas import ClassifyBody, Output, ResultBody, Work
from stream_infer.tasks.classification import Judge, classify


class PlainHead:
    """Takes the vector's first items as the scores."""

    labels: Sequence[str] = ("negative", "neutral", "positive")

    def __init__(self) -> None:
        self.asked = 0

    def scores(self, vector: NDArray[np.float16 | np.float32]) -> list[float]:
        """Return the items as they are, and count how often."""
        self.asked += 1
        return [float(value) for value in vector[:3]]


def classified(output: Output) -> ResultBody:
    recipe = classify(ClassifyBody("good"), "sentiment", Judge(PlainHead()))
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
    recipe = classify(ClassifyBody("good"), "sentiment", Judge(PlainHead()))
    next(recipe)

    with pytest.raises(ModelFailedError, match="sentiment"):
        recipe.send([Output(text="good")])


def test_a_verdict_is_reached_once() -> None:
    head = PlainHead()
    judge = Judge(head)
    vector = np.array([0.125, 0.25, 0.625], np.float16)

    assert judge.verdict(vector) == judge.verdict(vector.copy())
    assert 1 == head.asked


def test_no_other_vector_gets_a_remembered_verdict() -> None:
    """Neither one that differs in its last bit, nor one of the same bytes that means other numbers."""
    head = PlainHead()
    judge = Judge(head)
    vector = np.array([0.125, 0.25, 0.625, 0.0, 0.5, 0.5], np.float16)
    nearly = vector.copy()
    nearly[5] = np.nextafter(vector[5], np.float16(1))

    judge.verdict(vector)
    judge.verdict(nearly)
    judge.verdict(np.frombuffer(vector.tobytes(), np.float32))

    assert 3 == head.asked
