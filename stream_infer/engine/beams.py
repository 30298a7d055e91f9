"""Beam search: every row goes on in its likeliest few continuations, and the best that ended is taken.

A translation's score is the mean log-probability of its tokens, the end among them; so the scores and
choices are those of transformers' `generate` with a length penalty of 1 and no early stopping.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import Final, Protocol

import torch
from torch import Tensor

from stream_infer.engine.greedy import Decoded, find_largest

_EXACT: Final = 2.0**40
"""Shares are counted in so many parts of the largest one: their sums are exact in 64 bits."""


class RankingDecoder(Protocol):
    """Rows on their way through a decoder that may go on in several ways."""

    def rank(self, tokens: Tensor | None, count: int) -> tuple[Tensor, Tensor]:
        """Return each row's likeliest next tokens and their log-probabilities, best first, [rows, count].

        `tokens` is [rows]; None starts.
        """
        ...

    def keep(self, rows: Tensor) -> None:
        """Go on with these rows only, given as ascending indices; a row may go on several times."""
        ...

    def reorder(self, rows: Tensor) -> None:
        """Let each row go on from the past of the given row, which has the same source."""
        ...


def decode_with_beams(
    decoder: RankingDecoder, limits: Sequence[int], ends: AbstractSet[int], beams: int
) -> list[Decoded]:
    """Return the tokens of each row: those of its best translation, at most as many as its limit."""
    searches = [_Search(beams, limit) for limit in limits]
    going_on = list(searches)
    ranked = decoder.rank(None, 2 * beams)
    decoder.keep(torch.arange(len(limits)).repeat_interleave(beams).to(ranked[0].device))
    ranked = ranked[0].repeat_interleave(beams, 0), ranked[1].repeat_interleave(beams, 0)
    while True:
        words, scores = (
            part.view(len(going_on), beams, -1).tolist() for part in (ranked[0], ranked[1].double())
        )
        for search, its_words, its_scores in zip(going_on, words, scores, strict=True):
            search.advance(its_words, its_scores, ends)
        staying = [place for place, search in enumerate(going_on) if not search.is_done]
        if not staying:
            return [search.best for search in searches]
        if len(staying) < len(going_on):
            going_on = [going_on[place] for place in staying]
            kept = torch.tensor([place * beams + beam for place in staying for beam in range(beams)])
            decoder.keep(kept.to(ranked[0].device))
        ranked = decoder.rank(_step_over(decoder, going_on, ranked[0].device), 2 * beams)


def _step_over(decoder: RankingDecoder, searches: Sequence[_Search], device: torch.device) -> Tensor:
    """Give each row the past that it goes on from, and return the tokens that it goes on with, [rows]."""
    beams = len(searches[0].live)
    parents = [number * beams + beam.parent for number, search in enumerate(searches) for beam in search.live]
    if parents != list(range(len(parents))):
        decoder.reorder(torch.tensor(parents, device=device))
    return torch.tensor([beam.ids[-1] for search in searches for beam in search.live], device=device)


@dataclass(frozen=True, slots=True)
class _Beam:
    """A translation so far, the sum of its log-probabilities, and the beam that it goes on from."""

    ids: tuple[int, ...] = ()
    score: float = 0.0
    parent: int = 0


@dataclass(slots=True)
class _Search:
    """The beams of one row."""

    beams: int
    limit: int
    live: list[_Beam] = field(default_factory=list)
    ended: list[tuple[float, Decoded]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.live = [_Beam(), *[_Beam(score=-torch.inf)] * (self.beams - 1)]

    @property
    def is_done(self) -> bool:
        """Whether no translation that goes on could be among the best, or none may."""
        if not self.live:
            return True
        attainable = self.live[0].score / len(self.live[0].ids)
        return len(self.ended) >= self.beams and attainable <= self.ended[-1][0]

    @property
    def best(self) -> Decoded:
        """The best translation that ended."""
        return self.ended[0][1]

    def advance(
        self, words: Sequence[Sequence[int]], scores: Sequence[Sequence[float]], ends: AbstractSet[int]
    ) -> None:
        """Take the next tokens of each beam: `words` and their log-probabilities, best first."""
        live: list[_Beam] = []
        for place, beam in enumerate(self._candidates(words, scores)):
            is_end = beam.ids[-1] in ends
            is_cut = len(beam.ids) >= self.limit and not is_end
            if (is_end or is_cut) and place < self.beams:
                decoded = Decoded(list(beam.ids if is_cut else beam.ids[:-1]), is_cut)
                self.ended.append((beam.score / len(beam.ids), decoded))
            elif not (is_end or is_cut) and len(live) < self.beams:
                live.append(beam)
        self.ended = sorted(self.ended, key=lambda ended: -ended[0])[: self.beams]
        if live:
            live += [_Beam(live[0].ids, -torch.inf, live[0].parent)] * (self.beams - len(live))
        self.live = live

    def _candidates(
        self, words: Sequence[Sequence[int]], scores: Sequence[Sequence[float]]
    ) -> Iterator[_Beam]:
        """Yield the likeliest continuations, twice as many as there are beams, best first."""
        found = [
            (-(beam.score + score), parent, place)
            for parent, beam in enumerate(self.live)
            for place, score in enumerate(scores[parent])
            if beam.score + score > -torch.inf
        ]
        for cost, parent, place in sorted(found)[: 2 * self.beams]:
            yield _Beam((*self.live[parent].ids, words[parent][place]), -cost, parent)


def rank_scores(scores: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Return the places of the `count` largest of `scores` [rows, words] and their log-probabilities.

    Words of minus infinity change nothing, wherever they stand: equals come in the order of their
    places, and the sum of the shares is one of integers. `scores` is used up.
    """
    largest = scores.amax(1, keepdim=True)
    shares = (scores - largest).exp_().double().mul_(_EXACT).round_().to(torch.int64).sum(1, keepdim=True)
    norms = shares.double().div_(_EXACT).log_().float().add_(largest)
    places = []
    values = []
    for _ in range(count):
        place = find_largest(scores)[:, None]
        places.append(place)
        values.append(scores.gather(1, place))
        scores.scatter_(1, place, -torch.inf)
    return torch.cat(places, 1), torch.cat(values, 1).sub_(norms)
