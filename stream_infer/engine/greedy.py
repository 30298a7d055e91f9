"""Greedy decoding: every row takes its likeliest token, and a row that has ended leaves the batch."""

from __future__ import annotations

from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import Final, Protocol

import torch
from torch import Tensor

_BLOCK: Final = 256


class Decoder(Protocol):
    """Rows on their way through a decoder."""

    def step(self, tokens: Tensor | None) -> Tensor:
        """Return each row's likeliest next token, [rows], after `tokens` [rows]; None starts."""
        ...

    def keep(self, rows: Tensor) -> None:
        """Go on with these rows only, given as ascending indices."""
        ...


@dataclass(slots=True)
class Decoded:
    """The tokens of one row without the one that ends it; `is_cut` when its limit came first."""

    ids: list[int] = field(default_factory=list)
    is_cut: bool = False


def decode_greedily(decoder: Decoder, limits: Sequence[int], ends: AbstractSet[int]) -> list[Decoded]:
    """Return the tokens of each row: until a token of `ends`, and at most as many as its limit."""
    decoded = [Decoded() for _ in limits]
    rows = list(range(len(limits)))
    tokens: Tensor | None = None
    while rows:
        tokens = decoder.step(tokens)
        staying = _take(tokens.tolist(), rows, decoded, limits, ends)
        if len(staying) < len(rows):
            rows = [rows[place] for place in staying]
            kept = torch.tensor(staying, dtype=torch.int64, device=tokens.device)
            tokens = tokens[kept]
            if rows:
                decoder.keep(kept)
    return decoded


def _take(
    tokens: Sequence[int],
    rows: Sequence[int],
    decoded: Sequence[Decoded],
    limits: Sequence[int],
    ends: AbstractSet[int],
) -> list[int]:
    """Add each row's token to what it has, and return the places of those that go on."""
    staying = []
    for place, (row, token) in enumerate(zip(rows, tokens, strict=True)):
        if token in ends:
            continue
        decoded[row].ids.append(token)
        decoded[row].is_cut = len(decoded[row].ids) >= limits[row]
        if not decoded[row].is_cut:
            staying.append(place)
    return staying


def find_largest(scores: Tensor) -> Tensor:
    """Return the place of the largest score in each row of [rows, words], [rows]; the first of equals.

    Finding maxima is vectorised on a CPU and finding their places is not. So the block of the largest
    is found first, and only that block is searched: ten times as fast over a whole vocabulary.
    """
    rows, words = scores.shape
    blocks = words // _BLOCK
    if not blocks:
        return scores.argmax(1)
    blocked = scores[:, : blocks * _BLOCK].view(rows, blocks, _BLOCK)
    best = blocked.amax(2).argmax(1)
    first = best * _BLOCK
    places = first + blocked[torch.arange(rows, device=scores.device), best].argmax(1)
    if blocks * _BLOCK == words:
        return places
    rest = scores[:, blocks * _BLOCK :]
    largest = scores.gather(1, places[:, None])[:, 0]
    return torch.where(rest.amax(1) > largest, blocks * _BLOCK + rest.argmax(1), places)


def follow(decoder: Decoder, references: Sequence[Sequence[int]]) -> list[list[int]]:
    """Return what the decoder would say at each place of `references`, having said the same so far."""
    said: list[list[int]] = [[] for _ in references]
    tokens: Tensor | None = None
    for step in range(max(map(len, references))):
        likeliest = decoder.step(tokens)
        for row, reference in enumerate(references):
            if step < len(reference):
                said[row].append(int(likeliest[row]))
        spoken = [reference[min(step, len(reference) - 1)] for reference in references]
        tokens = torch.tensor(spoken, device=likeliest.device)
    return said
