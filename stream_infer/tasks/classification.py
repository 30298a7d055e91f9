"""A label for each text: one piece of work, and a head that turns the model's vector into scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from stream_infer.errors import ModelFailedError
from stream_infer.schemas import ClassifyBody, Recipe, Work

REMEMBERED = 4_096
"""Verdicts that are kept, those asked for last; each takes about as much memory as two vectors."""

Vector = NDArray[np.float16 | np.float32]
Verdict = Mapping[str, object]
"""The `label`, its `score`, and the `scores` of all labels."""


class Head(Protocol):
    """What stands between a model's vector and labels."""

    @property
    def labels(self) -> Sequence[str]:
        """The labels, in the order of the scores."""

    def scores(self, vector: Vector) -> list[float]:
        """Return the probability of each label; they add up to 1."""


class Judge:
    """Says what a head makes of a vector.

    What the cache answers comes again and again, and to look a verdict up takes a tenth of the time of
    reaching it. It is looked up by all the bytes of the vector, so it is the same as if reached anew; a
    product of all vectors at hand would not be, because libraries add up in another order then.
    """

    def __init__(self, head: Head) -> None:
        self._head = head
        self._remembered = lru_cache(maxsize=REMEMBERED)(self._judge)

    def verdict(self, vector: Vector) -> Verdict:
        """Return the likeliest label with the scores of all; of labels with equal scores the first wins."""
        return self._remembered(vector.tobytes(), vector.dtype)

    def _judge(self, data: bytes, kind: np.dtype[Any]) -> Verdict:
        labels, scores = self._head.labels, self._head.scores(np.frombuffer(data, kind))
        score = max(scores)
        return {
            "label": labels[scores.index(score)],
            "score": score,
            "scores": dict(zip(labels, scores, strict=True)),
        }


def classify(body: ClassifyBody, model: str, judge: Judge) -> Recipe:
    """Return the verdict on the text.

    `truncated` is there, and true, only when the text was longer than the model reads.
    """
    (output,) = yield (Work(model, body.text),)
    if output.vector is None:
        raise ModelFailedError(f"model {model!r} gave no vector to classify")
    verdict = judge.verdict(output.vector)
    return {**verdict, "truncated": True} if output.truncated else dict(verdict)
