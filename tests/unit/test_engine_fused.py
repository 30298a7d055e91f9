"""Fused encoders: the same bits with kernels, in torch, alone and in any company; close to the models."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional
from transformers import (
    AutoModel,
    AutoModelForSequenceClassification,
    BertConfig,
    DistilBertConfig,
    ElectraConfig,
    ErnieConfig,
    PreTrainedConfig,
    RobertaConfig,
)

from stream_infer.engine import exact, fused, quantization
from stream_infer.engine.encoder import Classifier, Embedder
from stream_infer.engine.fused import FusedEncoder, quantize_encoder
from stream_infer.engine.kernels import load_kernels_for
from stream_infer.engine.packed import PackedEncoder
from stream_infer.engine.quantization import Int8Linear
from stream_infer.engine.segments import Block
from stream_infer.engine.smoothing import WidthWatch
from tests.unit.instruction_sets import POSSIBLE, on_path

SIZES: dict[str, Any] = {
    "vocab_size": 60,
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 96,
    "max_position_embeddings": 160,
    "layer_norm_eps": 1e-12,
}
DISTILBERT: dict[str, Any] = {"vocab_size": 60, "dim": 64, "n_layers": 2, "n_heads": 2, "hidden_dim": 96}
FAMILIES: dict[str, Callable[[], PreTrainedConfig]] = {
    "bert": lambda: BertConfig(**SIZES),
    "roberta": lambda: RobertaConfig(**SIZES),
    "electra": lambda: ElectraConfig(**SIZES, embedding_size=16),
    "distilbert": lambda: DistilBertConfig(**DISTILBERT, max_position_embeddings=160),
    "one wide head": lambda: BertConfig(**SIZES | {"num_attention_heads": 1}),
    "sizes of several groups": lambda: BertConfig(**SIZES | {"intermediate_size": 512}),
    "narrow heads": lambda: BertConfig(**SIZES | {"num_attention_heads": 4}),
}
AUTO_MODEL: Any = AutoModel  # publishes no types
AUTO_CLASSIFIER: Any = AutoModelForSequenceClassification
LENGTHS = (5, 3, 1, 16, 17, 3, 70, 130, 64)
PATHS = ["torch", "kernels"]

Texts = list[NDArray[np.int32]]


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(3)


def texts(lengths: Sequence[int]) -> Texts:
    generator = np.random.default_rng(len(lengths))
    return [generator.integers(5, 60, length).astype(np.int32) for length in lengths]


@pytest.fixture(params=POSSIBLE, ids=lambda each: each.name)
def quantised(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, Any], Any]:
    """Quantises a model so that it runs on one path or the other."""
    found = load_kernels_for(request.param)

    def quantise(path: str, model: Any) -> Any:
        with on_path(path, found, monkeypatch, quantization, fused):
            watch = WidthWatch(model)
            with torch.inference_mode():
                model(torch.arange(5, 60)[None])
            quantize_encoder(model, watch.stop())
        return model

    return quantise


def make(family: str) -> Any:
    torch.manual_seed(3)
    return AUTO_MODEL.from_config(FAMILIES[family]()).eval()


@pytest.mark.parametrize("family", FAMILIES)
def test_kernels_and_torch_give_the_same_bits(family: str, quantised: Callable[[str, Any], Any]) -> None:
    """Every token's state, in texts of every length, whatever is installed."""
    batch = texts(LENGTHS)
    expected, states = (PackedEncoder(quantised(path, make(family))).hidden(batch) for path in PATHS)

    assert all(torch.equal(*pair) for pair in zip(expected, states, strict=True))


def test_token_types_are_heeded_on_both_paths(quantised: Callable[[str, Any], Any]) -> None:
    """Readers of pairs tell a question from a passage by them."""
    batch = texts(LENGTHS)
    types = [np.arange(len(text), dtype=np.int32) % 2 for text in batch]
    encoders = [PackedEncoder(quantised(path, make("bert"))) for path in PATHS]
    expected, states = (encoder.hidden(batch, types) for encoder in encoders)

    assert all(torch.equal(*pair) for pair in zip(expected, states, strict=True))
    assert not torch.equal(states[0], encoders[0].hidden(batch)[0])


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("ids", [[5, 60], [-1, 5], [5] * 161], ids=["beyond", "below", "too many"])
def test_what_the_model_does_not_know_is_an_error(
    path: str, ids: list[int], quantised: Callable[[str, Any], Any]
) -> None:
    """Tables end somewhere, and what lies behind them is not read."""
    encoder = PackedEncoder(quantised(path, make("bert")))

    with pytest.raises(IndexError):
        encoder.hidden([np.array(ids, np.int32)])


def test_words_take_half_the_memory_where_float16_holds_them(quantised: Callable[[str, Any], Any]) -> None:
    """One word beyond its range, and the model keeps embeddings of its own."""
    rounded, wide = make("bert"), make("bert")
    with torch.no_grad():
        wide.embeddings.word_embeddings.weight[7, 3] = 1e5

    tables = [quantised("torch", model).embeddings.word_embeddings.weight for model in (rounded, wide)]

    assert [torch.float16, torch.float32] == [table.dtype for table in tables]
    assert all(len(states) == 5 for states in PackedEncoder(wide).hidden(texts([5])))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_fused_model_stays_close_to_its_own(family: str, quantised: Callable[[str, Any], Any]) -> None:
    """Eight bits cost every token's state little, and all of the encoder's layers are fused."""
    batch = texts(LENGTHS)
    model = quantised("torch", make(family))
    expected = torch.cat(PackedEncoder(make(family)).hidden(batch))

    states = torch.cat(PackedEncoder(model).hidden(batch))

    assert any(isinstance(module, FusedEncoder) for module in model.modules())
    assert functional.cosine_similarity(expected, states).min() > 0.998


@pytest.mark.parametrize("path", PATHS)
def test_no_neighbour_changes_an_embedding(path: str, quantised: Callable[[str, Any], Any]) -> None:
    """A text's embedding has equal bits in any batch and any order, and by any number of threads."""
    embed = Embedder(quantised(path, make("bert")))
    batch = texts(LENGTHS)
    alone = [embed([text])[0] for text in batch]

    @settings(max_examples=15, deadline=None)
    @given(st.permutations(range(len(LENGTHS))), st.integers(1, len(LENGTHS)), st.integers(1, 3))
    def check(order: Sequence[int], size: int, threads: int) -> None:
        torch.set_num_threads(threads)
        chosen = order[:size]
        for index, vector in zip(chosen, embed([batch[index] for index in chosen]), strict=True):
            assert np.array_equal(alone[index], vector)

    try:
        check()
    finally:
        torch.set_num_threads(1)


@pytest.mark.parametrize(
    "config",
    [
        BertConfig(**SIZES | {"num_attention_heads": 8}),
        BertConfig(**SIZES | {"hidden_act": "relu"}),
        BertConfig(**SIZES | {"intermediate_size": 50}),
        ErnieConfig(**SIZES),
    ],
    ids=["heads too narrow", "another activation", "an odd size", "another family"],
)
def test_other_encoders_keep_their_layers(config: PreTrainedConfig) -> None:
    """What the kernels cannot do is quantised layer by layer."""
    model = AUTO_MODEL.from_config(config).eval()
    quantize_encoder(model)

    assert not any(isinstance(module, FusedEncoder) for module in model.modules())
    assert isinstance(model.encoder.layer[0].output.dense, Int8Linear)
    assert (5, 64) == PackedEncoder(model).hidden(texts((5, 3)))[0].shape


def test_a_classifiers_encoder_is_fused_too() -> None:
    """Quantising the model reaches the encoder whose place a classifier has taken."""
    model = AUTO_CLASSIFIER.from_config(FAMILIES["bert"]()).eval()
    classify = Classifier(model)
    exact_logits = classify(texts(LENGTHS))
    quantize_encoder(model)

    assert any(isinstance(module, FusedEncoder) for module in model.modules())
    assert not np.array_equal(exact_logits, classify(texts(LENGTHS)))
    assert np.allclose(exact_logits, classify(texts(LENGTHS)), atol=0.05)


def test_activations_and_powers_are_what_they_say() -> None:
    """The polynomials err no more than their docstrings promise."""
    values = torch.linspace(-12, 12, 100_001)
    assert (exact.gelu(values.clone()) - functional.gelu(values)).abs().max() < 6e-5
    assert (exact.sigmoid(values) / values.sigmoid() - 1).abs().max() < 4e-6
    assert (exact.silu(values.clone()) - functional.silu(values)).abs().max() < 4e-5
    powers = torch.linspace(-100, 0, 100_001)
    assert (exact.power_of_two(powers).double() / 2 ** powers.double() - 1).abs().max() < 3e-6


def test_normalising_is_layer_norm() -> None:
    """Sums of float64 give what torch's own normalisation gives, to float32's precision."""
    norm = nn.LayerNorm(96, eps=1e-6)
    nn.init.normal_(norm.weight)
    values = torch.randn(50, 96) * 9 + 4

    assert torch.allclose(norm(values), exact.normalize(norm, values), atol=1e-5)


def test_attention_in_integers_is_attention() -> None:
    """Rounding queries, keys, values and weights moves a context by a thousandth of the values' spread."""
    qkv = torch.randn(40, 3 * 64)
    block = Block(torch.arange(48).clamp(max=39)[None], (torch.arange(48) < 40)[None])
    query, key, value = qkv.view(40, 3, 2, 32).permute(1, 2, 0, 3)
    expected = functional.scaled_dot_product_attention(query, key, value).transpose(0, 1).flatten(1)

    assert (exact.attend(qkv, 2, [block]) - expected).abs().max() < 0.005
