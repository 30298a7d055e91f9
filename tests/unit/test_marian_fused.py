"""8-bit Marian models: the same bits by the kernels and in torch, in any company; close to full precision."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from stream_infer.engine import marian_fused, quantization
from stream_infer.engine.kernels import load_kernels_for
from stream_infer.engine.marian import PackedDecoder, PackedMarian
from stream_infer.engine.marian_fused import quantize_marian
from stream_infer.engine.marian_layers import PackedMarianConfig
from stream_infer.engine.marian_lookback import FIRST_CAPACITY
from tests.unit.instruction_sets import POSSIBLE, on_path

WORDS = 90
LENGTHS = (1, 3, 3, 16, 17, 40)
PATHS = ["torch", "kernels"]
SHAPES: dict[str, dict[str, Any]] = {
    "recurrent": {"activation": "relu"},
    "attending": {"is_recurrent": False, "start_token_id": 5, "activation": "swish"},
    "one wide head": {"num_attention_heads": 1, "is_recurrent": False, "activation": "gelu"},
}
SIZES: dict[str, Any] = {
    "vocab_size": WORDS,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_attention_heads": 2,
    "encoder_layers": 2,
    "decoder_layers": 2,
}

Quantise = Callable[[str, PackedMarian], PackedMarian]


@pytest.fixture(autouse=True)
def _one_core() -> None:
    torch.set_num_threads(1)


@pytest.fixture(params=POSSIBLE, ids=lambda each: each.name)
def quantised(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Quantise:
    """Quantises a model so that it runs on one path or the other."""
    found = load_kernels_for(request.param)

    def quantise(path: str, model: PackedMarian) -> PackedMarian:
        with on_path(path, found, monkeypatch, quantization, marian_fused):
            quantize_marian(model)
        assert (model.kernels is None) == (path == "torch")
        return model

    return quantise


def make(shape: str, **changes: Any) -> PackedMarian:
    torch.manual_seed(4)
    model = PackedMarian(PackedMarianConfig(**SIZES | SHAPES[shape] | changes))
    model.train(mode=False)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    return model


def start(
    model: PackedMarian, lengths: Sequence[int] = LENGTHS, allowed: Tensor | None = None
) -> PackedDecoder:
    """Return a decoder of rows whose tokens follow from their lengths."""
    rows = [torch.arange(length) * 7 % WORDS for length in lengths]
    return model.start(torch.cat(rows), list(lengths), allowed)


def draw_allowed(rows: int) -> Tensor:
    return torch.rand(rows, WORDS, generator=torch.Generator().manual_seed(2)) < 0.3


@pytest.mark.parametrize("shape", SHAPES)
@torch.inference_mode()
def test_kernels_and_torch_give_the_same_bits(shape: str, quantised: Quantise) -> None:
    """Every score, of sources of every length, while rows leave and change places, and after a long past."""
    decoders = [start(quantised(path, make(shape))) for path in PATHS]
    tokens: Tensor | None = None
    for step in range(2 * FIRST_CAPACITY + 2):
        expected, scores = (decoder.score(tokens) for decoder in decoders)
        assert torch.equal(expected, scores)
        tokens = expected.argmax(1)
        if step == 2:
            for decoder in decoders:
                decoder.reorder(torch.tensor([0, 2, 2, 3, 4, 5]))
        if step == 5:
            kept = torch.tensor([1, 2, 4, 4, 5])
            tokens = tokens[kept]
            for decoder in decoders:
                decoder.keep(kept)


@pytest.mark.parametrize("shape", SHAPES)
@torch.inference_mode()
def test_words_of_each_row_are_ranked_alike_on_both_paths(shape: str, quantised: Quantise) -> None:
    """Whether each row's own words are scored, or those that any row needs."""
    allowed = draw_allowed(len(LENGTHS))
    decoders = [start(quantised(path, make(shape)), allowed=allowed) for path in PATHS]
    tokens: Tensor | None = None
    for step in range(4):
        (expected, likelihoods), (words, found) = (decoder.rank(tokens, 3) for decoder in decoders)
        assert torch.equal(expected, words)
        assert torch.equal(likelihoods, found)
        assert bool(allowed.gather(1, words).all())
        tokens = words[:, 0]
        if step == 1:
            kept = torch.tensor([0, 3, 5])
            tokens, allowed = tokens[kept], allowed[kept]
            for decoder in decoders:
                decoder.keep(kept)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("shape", SHAPES)
@torch.inference_mode()
def test_a_row_has_the_same_bits_in_every_batch(path: str, shape: str, quantised: Quantise) -> None:
    """No neighbour changes a score."""
    model = quantised(path, make(shape))
    together = start(model)
    alone = [start(model, [length]) for length in LENGTHS]
    tokens: Tensor | None = None
    for _ in range(3):
        scores = together.score(tokens)
        each = [
            decoder.score(None if tokens is None else tokens[row : row + 1])
            for row, decoder in enumerate(alone)
        ]
        assert torch.equal(scores, torch.cat(each))
        tokens = scores.argmax(1)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("shape", SHAPES)
@torch.inference_mode()
def test_a_quantised_model_stays_close_to_full_precision(path: str, shape: str, quantised: Quantise) -> None:
    """Eight bits cost the scores little, also after some steps."""
    exact, rounded = start(make(shape)), start(quantised(path, make(shape)))
    tokens: Tensor | None = None
    for _ in range(6):
        expected = exact.score(tokens)
        assert functional.cosine_similarity(expected, rounded.score(tokens)).min() > 0.99
        tokens = expected.argmax(1)


@pytest.mark.parametrize(
    "changes",
    [{"num_attention_heads": 8}, {"activation": "tanh"}, {"intermediate_size": 50}],
    ids=["heads too narrow", "another activation", "an odd size"],
)
@torch.inference_mode()
def test_other_models_keep_their_layers(changes: dict[str, Any]) -> None:
    """What the kernels cannot do is quantised layer by layer."""
    model = make("recurrent", **changes)
    quantize_marian(model)

    assert model.kernels is None
    assert isinstance(model.projection, quantization.Int8Linear)
    assert (len(LENGTHS), WORDS) == start(model).score(None).shape
