"""Heads that make class scores of a model's output vector, in the loop process: no torch."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import safe_open

from stream_infer.engine.sources import CARD_NAME, WEIGHTS_NAME, ModelSource, SourceKind
from stream_infer.engine.specs import ModelKind
from stream_infer.errors import ConfigError

Vector = NDArray[np.float16 | np.float32]


@dataclass(frozen=True, slots=True)
class Head:
    """Labels, and how a vector is scored: softmax(weight @ vector + bias).

    `weight` is float32 [labels, dimension] and `bias` float32 [labels]; a weight of None takes the
    vector itself for the logits.
    """

    labels: tuple[str, ...]
    weight: NDArray[np.float32] | None = None
    bias: NDArray[np.float32] | None = None

    def scores(self, vector: Vector) -> list[float]:
        """Return the probability of each label, in the order of `labels`, from one vector alone."""
        logits = vector.astype(np.float32)
        if self.weight is not None:
            logits = self.weight.dot(logits)
        if self.bias is not None:
            logits = logits + self.bias
        # A handful of numbers: plain floats take a third of numpy's time.
        numbers: list[float] = logits.tolist()
        largest = max(numbers)
        powers = [math.exp(number - largest) for number in numbers]
        total = sum(powers)
        return [power / total for power in powers]


def load_head(source: ModelSource, kind: ModelKind) -> Head | None:
    """Return the head that belongs to a model, or None where its vectors carry no labels.

    Raises:
        ConfigError: a classification model whose configuration names no labels.
    """
    if source.kind is SourceKind.BUILTIN and source.directory is not None:
        return _read_builtin(source.directory)
    if kind is ModelKind.CLASSIFY and source.directory is not None:
        return Head(read_labels(source.directory))
    return None


def read_labels(directory: Path) -> tuple[str, ...]:
    """Return the labels of a classification model, in the order of its logits."""
    config = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    names = config.get("id2label")
    if not isinstance(names, dict) or not names:
        raise ConfigError(f"{directory}: config.json has no id2label: not a classification model")
    return tuple(str(names[key]) for key in sorted(names, key=int))


def _read_builtin(directory: Path) -> Head | None:
    labels: Sequence[str] = json.loads((directory / CARD_NAME).read_text(encoding="utf-8")).get("labels", ())
    if not labels:
        return None
    with safe_open(directory / WEIGHTS_NAME, framework="numpy") as tensors:
        weight = np.ascontiguousarray(tensors.get_tensor("head.weight"), np.float32)
        bias = np.ascontiguousarray(tensors.get_tensor("head.bias"), np.float32)
    if weight.shape[0] != len(labels) or bias.shape != (len(labels),):
        raise ConfigError(f"{directory}: the head has {weight.shape[0]} rows for {len(labels)} labels")
    return Head(tuple(labels), weight, bias)
