"""What the adapters share; the peers themselves are not installed where the unit tests run."""

from collections.abc import Sequence
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit

from loadgen.bench.embeddings import cosines, what_is_wrong
from loadgen.bench.translating import what_is_wrong as what_is_wrong_with_translations
from loadgen.peers.halves import Shared
from loadgen.peers.ours import Engine
from loadgen.peers.ours_translation import Translation
from loadgen.peers.setup import NEW_TOKENS, Vectors
from loadgen.peers.tokens import RawTokenizer
from loadgen.peers.windows import Rows, embed_by_length, mean_over_tokens, padded, places_by_length
from stream_infer.schemas import Output, Work
from tests.unit.bench_doubles import make_upper

ROWS = [[1] * length for length in (5, 1, 4, 2, 3)]
UNITS = np.eye(4, dtype=np.float32)


def test_windows_are_sorted_by_length_and_cut_into_batches() -> None:
    assert [[1, 3], [4, 2], [0]] == list(places_by_length(ROWS, window=5, batch=2))


def test_a_text_stays_in_its_window() -> None:
    assert [[1, 0], [3, 2], [4]] == list(places_by_length(ROWS, window=2, batch=2))


def test_embeddings_come_back_in_the_order_of_the_texts() -> None:
    def embed(rows: Rows) -> Vectors:
        return np.array([[len(row)] for row in rows], np.float32)

    assert [[5], [1], [4], [2], [3]] == embed_by_length(ROWS, embed).tolist()


def test_padding_is_masked_and_counts_in_no_mean() -> None:
    ids, mask = padded([[7, 8, 9], [5]])
    states = np.array([[[1.0], [2.0], [3.0]], [[4.0], [100.0], [100.0]]], np.float32)

    assert [[7, 8, 9], [5, 0, 0]] == ids.tolist()
    assert [[2.0], [4.0]] == mean_over_tokens(states, mask).tolist()


def test_right_embeddings_have_nothing_wrong_with_them() -> None:
    assert "" == what_is_wrong(UNITS * 3, UNITS)
    assert [1.0] * 4 == cosines(UNITS * 3, UNITS).tolist()


@pytest.mark.parametrize(
    ("found", "wrong"),
    [
        (UNITS[:3], "shape (3, 4) instead of (4, 4)"),
        (UNITS * np.nan, "NaN or infinity"),
        (UNITS[::-1], "cosine 0.000 to full precision, at least 0.9 asked"),
        (UNITS * 0, "cosine 0.000 to full precision, at least 0.9 asked"),
    ],
)
def test_wrong_embeddings_are_named(found: Vectors, wrong: str) -> None:
    assert wrong == what_is_wrong(found, UNITS)


def test_embeddings_of_other_texts_are_found_out_where_all_are_alike() -> None:
    """Random weights give every text nearly the same embedding, so a cosine alone would not tell."""
    alike = UNITS * 0.1 + 1.0

    assert "" == what_is_wrong(alike, alike)
    assert "only 0% of the texts are closest to themselves" == what_is_wrong(alike[[1, 2, 3, 0]], alike)


@pytest.mark.slow
def test_processes_share_the_texts_and_keep_their_order() -> None:
    shared = Shared(make_upper, "m", 2)

    assert ["m A", "m B", "m C"] == shared(["a", "b", "c"])
    assert ["m D"] == shared(["d"])


def test_pieces_are_the_tokens_strings() -> None:
    tokenizer = Tokenizer(WordLevel({"<unk>": 0, "we": 1, "leave": 2}, unk_token="<unk>"))  # noqa: S106 - a token
    tokenizer.pre_tokenizer = WhitespaceSplit()

    assert [["we", "leave"], ["<unk>"]] == RawTokenizer(tokenizer).pieces(["we leave", "now"])
    assert [[1, 2], [0]] == RawTokenizer(tokenizer).encode(["we leave", "now"])


def test_translations_by_random_weights_have_one_length_and_mostly_one_text() -> None:
    right = [" ".join([word] * NEW_TOKENS) for word in "abcd"]
    longer = [f"{text} e" for text in right]

    assert "" == what_is_wrong_with_translations([*right[:2], right[0], right[0]], right)
    assert "only 25% of the translations are those at full precision" == what_is_wrong_with_translations(
        right[:1] * 4, right
    )
    assert "[48] tokens instead of 47" == what_is_wrong_with_translations(longer, right)


class UpperEngine:
    """Translates into capitals, and keeps how much came at once."""

    def __init__(self) -> None:
        self.backend = SimpleNamespace(info=SimpleNamespace(languages=("en-pt",), max_tokens=128))
        self.tokenizer = SimpleNamespace(encode=lambda works: [SimpleNamespace(truncated=False)] * len(works))
        self.batches: list[list[str]] = []

    def run(self, works: Sequence[Work]) -> list[Output]:
        """Return the capitals."""
        self.batches.append([work.text for work in works])
        return [Output(text=work.text.upper()) for work in works]


def test_recipes_of_all_texts_are_driven_together() -> None:
    """A text of two sentences, one of one, and one without words, which asks for nothing."""
    engine = UpperEngine()
    translate = Translation(cast("Engine", engine))

    assert ["GOOD MORNING. WE LEAVE NOW.", "IT RAINS.", "--"] == translate(
        ["Good morning. We leave now.", "It rains.", "--"]
    )
    assert [["Good morning.", "We leave now.", "It rains."]] == engine.batches
