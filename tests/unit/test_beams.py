from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import product

import pytest
import torch
from torch import Tensor

from stream_infer.engine.beams import decode_with_beams, rank_scores

END = 0
TABLE = torch.log_softmax(torch.randn(997, 4, generator=torch.Generator().manual_seed(8)) * 2, -1)
"""Log-probabilities of the next of four tokens."""


def next_scores(source: int, past: Sequence[int]) -> Tensor:
    """Return the log-probabilities of the next token, which depend on all that was said before."""
    return TABLE[sum((token + 1) * 5**place for place, token in enumerate([source, *past])) % len(TABLE)]


class TableDecoder:
    """A decoder whose probabilities stand in a table."""

    def __init__(self, sources: Sequence[int]) -> None:
        self.rows: list[tuple[int, tuple[int, ...]]] = [(source, ()) for source in sources]

    def rank(self, tokens: Tensor | None, count: int) -> tuple[Tensor, Tensor]:
        """Return the likeliest next tokens and their log-probabilities."""
        if tokens is not None:
            self.rows = [
                (source, (*past, token))
                for (source, past), token in zip(self.rows, tokens.tolist(), strict=True)
            ]
        scores = [next_scores(source, past) for source, past in self.rows]
        values, words = torch.stack(scores).topk(min(count, 4))
        return words, values

    def keep(self, rows: Tensor) -> None:
        """Go on with these rows."""
        self.rows = [self.rows[row] for row in rows.tolist()]

    def reorder(self, rows: Tensor) -> None:
        """Go on with these pasts; each row must stay at its source."""
        sources = [source for source, _ in self.rows]
        self.keep(rows)
        assert sources == [source for source, _ in self.rows]


def mean_score(source: int, tokens: Sequence[int]) -> float:
    scores = (next_scores(source, tokens[:step])[token] for step, token in enumerate(tokens))
    return math.fsum(map(float, scores)) / len(tokens)


def every_translation(limit: int) -> list[tuple[int, ...]]:
    """Return all that ends within `limit` tokens, and all that is cut there."""
    ended = [(*words, END) for length in range(limit) for words in product(range(1, 4), repeat=length)]
    return [*ended, *product(range(1, 4), repeat=limit)]


def test_enough_beams_find_the_best_of_all_translations() -> None:
    limit = 4
    for source in range(40):
        best = max(every_translation(limit), key=lambda tokens: mean_score(source, tokens))
        (found,) = decode_with_beams(TableDecoder([source]), [limit], {END}, 81)
        assert best == (tuple(found.ids) if found.is_cut else (*found.ids, END))
        assert found.is_cut == (END not in best)


def test_more_beams_find_better_translations_than_one() -> None:
    scores = []
    for beams in (1, 4):
        found = decode_with_beams(TableDecoder(range(40)), [4] * 40, {END}, beams)
        tokens = [row.ids if row.is_cut else [*row.ids, END] for row in found]
        scores.append(sum(mean_score(source, row) for source, row in enumerate(tokens)))
    assert scores[0] < scores[1]


@pytest.mark.parametrize("beams", [1, 2, 3, 5])
def test_a_row_does_not_depend_on_its_batch(beams: int) -> None:
    limits = [1 + source % 5 for source in range(40)]
    together = decode_with_beams(TableDecoder(range(40)), limits, {END}, beams)
    alone = [
        decode_with_beams(TableDecoder([source]), [limit], {END}, beams)[0]
        for source, limit in enumerate(limits)
    ]
    assert together == alone
    assert all(len(row.ids) <= limit for row, limit in zip(together, limits, strict=True))


def test_ranked_scores_are_log_probabilities_in_order() -> None:
    scores = torch.randn(6, 700, generator=torch.Generator().manual_seed(1)) * 3
    expected = scores.log_softmax(1).topk(5)
    places, values = rank_scores(scores.clone(), 5)

    assert torch.equal(expected.indices, places)
    assert torch.allclose(expected.values, values, atol=1e-5)


def test_words_without_a_chance_change_no_bit_and_equals_keep_their_order() -> None:
    """What the neighbours' shortlists add to a row's words stands anywhere between them."""
    generator = torch.Generator().manual_seed(2)
    scores = torch.randn(64, 3000, generator=generator).mul_(64).round_().div_(32)
    wide = torch.full((64, 9000), -torch.inf)
    columns = torch.randperm(9000, generator=generator)[:3000].sort().values
    wide[:, columns] = scores
    places, values = rank_scores(scores, 6)
    wide_places, wide_values = rank_scores(wide, 6)

    assert torch.equal(columns[places], wide_places)
    assert torch.equal(values, wide_values)
