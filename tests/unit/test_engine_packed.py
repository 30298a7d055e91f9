"""Packed encoders, on small random models of every family that can be packed."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor
from transformers import (
    AutoModel,
    AutoModelForSequenceClassification,
    BertConfig,
    DistilBertConfig,
    ElectraConfig,
    MPNetConfig,
    PreTrainedConfig,
    RobertaConfig,
    XLMRobertaConfig,
)

from stream_infer.engine.encoder import Classifier, Embedder, EncoderBackend
from stream_infer.engine.packed import PackedEncoder, pack
from stream_infer.engine.quantization import quantize
from stream_infer.schemas import ModelInfo

SIZES: dict[str, Any] = {
    "vocab_size": 60,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 24,
}
DISTILBERT: dict[str, Any] = {"vocab_size": 60, "dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 32}
FAMILIES: dict[str, Callable[[], PreTrainedConfig]] = {
    "bert": lambda: BertConfig(**SIZES),
    "roberta": lambda: RobertaConfig(**SIZES),
    "xlm-roberta": lambda: XLMRobertaConfig(**SIZES),
    "electra": lambda: ElectraConfig(**SIZES, embedding_size=16),
    "distilbert": lambda: DistilBertConfig(**DISTILBERT, max_position_embeddings=24),
}
AUTO_MODEL: Any = AutoModel  # publishes no types
AUTO_CLASSIFIER: Any = AutoModelForSequenceClassification
LENGTHS = (5, 3, 9, 3, 1, 5, 14)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(3)


def texts(lengths: Sequence[int]) -> list[NDArray[np.int32]]:
    generator = np.random.default_rng(len(lengths))
    return [generator.integers(5, 60, length).astype(np.int32) for length in lengths]


def plain(model: Any, text: NDArray[np.int32]) -> Tensor:
    with torch.inference_mode():
        states: Tensor = model(input_ids=torch.from_numpy(text.astype(np.int64))[None]).last_hidden_state[0]
    return states


@pytest.mark.parametrize("family", FAMILIES)
def test_packing_changes_no_state(family: str) -> None:
    """Every token's state is what the model gives for its text alone, the usual way."""
    model = AUTO_MODEL.from_config(FAMILIES[family]()).eval()
    batch = texts(LENGTHS)
    expected = [plain(model, text) for text in batch]

    encoder = PackedEncoder(model)

    assert encoder.is_packed
    for states, alone in zip(encoder.hidden(batch), expected, strict=True):
        assert torch.allclose(states, alone, atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_classification_heads_run_on_packed_texts(family: str) -> None:
    """Logits are what the model gives for each text alone, the usual way."""
    config = FAMILIES[family]()
    config.num_labels = 3
    model = AUTO_CLASSIFIER.from_config(config).eval()
    batch = texts(LENGTHS)
    with torch.inference_mode():
        expected = [
            model(input_ids=torch.from_numpy(text.astype(np.int64))[None]).logits[0] for text in batch
        ]

    logits = Classifier(model)(batch)

    assert np.allclose(logits, torch.stack(expected).numpy(), atol=1e-5)


@pytest.fixture(scope="module")
def embed() -> Embedder:
    torch.manual_seed(3)
    model = AUTO_MODEL.from_config(BertConfig(**SIZES)).eval()
    quantize(model)
    return Embedder(model)


@settings(max_examples=30)
@given(order=st.permutations(range(len(LENGTHS))), size=st.integers(1, len(LENGTHS)))
def test_no_neighbour_changes_an_embedding(embed: Embedder, order: Sequence[int], size: int) -> None:
    """With 8-bit layers a text's embedding has equal bits in any batch and any order."""
    batch = texts(LENGTHS)
    chosen = order[:size]

    for index, vector in zip(chosen, embed([batch[index] for index in chosen]), strict=True):
        assert np.array_equal(embed([batch[index]])[0], vector)


def test_a_model_that_cannot_be_packed_runs_by_length() -> None:
    """Models whose attention is their own give the same states, at one pass for each length."""
    model = AUTO_MODEL.from_config(MPNetConfig(**SIZES)).eval()
    batch = texts(LENGTHS)
    expected = [plain(model, text) for text in batch]

    encoder = PackedEncoder(model)

    assert not encoder.is_packed
    for states, alone in zip(encoder.hidden(batch), expected, strict=True):
        assert torch.allclose(states, alone, atol=1e-5)


def test_token_types_follow_their_texts() -> None:
    """Pairs keep their token types when texts are laid out by length."""
    model = AUTO_MODEL.from_config(BertConfig(**SIZES)).eval()
    batch = texts((6, 4))
    types = [np.array([0, 0, 0, 1, 1, 1], np.int32), np.array([0, 1, 1, 1], np.int32)]
    ids = torch.from_numpy(batch[0].astype(np.int64))[None]
    with torch.inference_mode():
        expected = model(input_ids=ids, token_type_ids=torch.from_numpy(types[0].astype(np.int64))[None])

    states = PackedEncoder(model).hidden(batch, types)

    assert torch.allclose(states[0], expected.last_hidden_state[0], atol=1e-5)


def test_an_empty_batch_has_no_outputs() -> None:
    """Nothing is computed for nothing."""
    info = ModelInfo("encoder", "path:none", "1", "int8", "cpu", 24)
    backend = EncoderBackend(info, lambda _: pytest.fail("computed"))

    assert [] == backend.run([], [])


def test_texts_of_one_length_share_a_segment() -> None:
    """A packed row has one segment for each length, shortest first, and knows where each text lies."""
    packing = pack(texts((5, 3, 5)), first_position=2)

    assert [(0, 3, 3), (3, 13, 5)] == [(part.start, part.end, part.length) for part in packing.segments]
    assert ((3, 8), (0, 3), (8, 13)) == packing.bounds
    assert [2, 3, 4, 2, 3, 4, 5, 6, 2, 3, 4, 5, 6] == packing.positions[0].tolist()
