"""Heads: scores from one vector, and labels in the model's order."""

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from stream_infer.engine.heads import Head, load_head, read_labels
from stream_infer.engine.sources import ModelSource, SourceKind
from stream_infer.engine.specs import ModelKind
from stream_infer.errors import ConfigError

WEIGHT = np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]], np.float32)
BIAS = np.array([0.0, 0.5, -1.0], np.float32)


def write_builtin(directory: Path, labels: list[str]) -> ModelSource:
    (directory / "card.json").write_text(json.dumps({"labels": labels}))
    save_file({"head.weight": WEIGHT, "head.bias": BIAS}, directory / "model.safetensors")
    return ModelSource(SourceKind.BUILTIN, "tone", "1", directory)


def test_scores_are_the_softmax_of_the_linear_layer() -> None:
    """They are probabilities in the order of the labels."""
    logits = np.array([2.0, 1.5, 2.0])

    scores = Head(("a", "b", "c"), WEIGHT, BIAS).scores(np.array([2.0, 1.0], np.float16))

    assert np.allclose(np.exp(logits) / np.exp(logits).sum(), scores)
    assert pytest.approx(1.0) == sum(scores)


def test_logits_need_no_weight() -> None:
    """A classification model's vector is scored as it is, however large."""
    scores = Head(("a", "b")).scores(np.array([1000.0, 1000.0], np.float32))

    assert [0.5, 0.5] == scores


def test_a_builtin_brings_its_head(tmp_path: Path) -> None:
    """Weights come from its tensors and labels from its card."""
    head = load_head(write_builtin(tmp_path, ["bad", "so", "good"]), ModelKind.EMBED)

    assert head is not None
    assert ("bad", "so", "good") == head.labels
    assert head.weight is not None
    assert np.array_equal(WEIGHT, head.weight)


def test_a_head_must_fit_its_labels(tmp_path: Path) -> None:
    """An artefact of two minds is refused."""
    with pytest.raises(ConfigError, match="3 rows for 2 labels"):
        load_head(write_builtin(tmp_path, ["bad", "good"]), ModelKind.EMBED)


def test_a_classification_model_brings_its_labels(tmp_path: Path) -> None:
    """They are ordered by number, not by spelling."""
    labels = {str(number): f"label {number}" for number in range(11)}
    (tmp_path / "config.json").write_text(json.dumps({"id2label": labels}))
    source = ModelSource(SourceKind.PATH, "x", "1", tmp_path)

    head = load_head(source, ModelKind.CLASSIFY)

    assert head == Head(tuple(f"label {number}" for number in range(11)))
    assert load_head(source, ModelKind.EMBED) is None


def test_a_model_without_labels_cannot_classify(tmp_path: Path) -> None:
    """The error says what the configuration lacks."""
    (tmp_path / "config.json").write_text("{}")

    with pytest.raises(ConfigError, match="no id2label"):
        read_labels(tmp_path)
