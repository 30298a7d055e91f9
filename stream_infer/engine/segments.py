"""Where texts lie in a packed row, and which of them are computed together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

POSITIONS_FROM_PADDING: Final = frozenset({"roberta", "xlm-roberta", "camembert"})
PACKABLE: Final = frozenset({"bert", "distilbert", "electra"}) | POSITIONS_FROM_PADDING
"""Model types whose forward takes position ids and looks at other tokens only in attention."""

_RUN_TOKENS: Final = 128
_BLOCK_STEP: Final = 16


@dataclass(frozen=True, slots=True)
class Segment:
    """Texts of one length, side by side in a packed row."""

    start: int
    end: int
    length: int


@dataclass(frozen=True, slots=True)
class Block:
    """Texts that attend side by side: `rows` [texts, length] are their tokens' places in a run.

    `is_inside` [texts, length] tells tokens from padding.
    """

    rows: Tensor
    is_inside: Tensor


@dataclass(frozen=True, slots=True)
class Run:
    """Texts next to each other in a packed row: each one's first token and length."""

    texts: tuple[tuple[int, int], ...]

    @property
    def start(self) -> int:
        """The run's first token."""
        return self.texts[0][0]

    @property
    def end(self) -> int:
        """The token behind its last."""
        return sum(self.texts[-1])

    def blocks(self) -> list[Block]:
        """Return the texts, those of like length padded to the same multiple of 16."""
        grouped = groupby(self.texts, lambda text: -(-text[1] // _BLOCK_STEP) * _BLOCK_STEP)
        return [self._block(length, tuple(texts)) for length, texts in grouped]

    def _block(self, length: int, texts: Sequence[tuple[int, int]]) -> Block:
        starts, lengths = torch.tensor(texts).T
        places = torch.arange(length)
        is_inside = places < lengths[:, None]
        return Block(torch.where(is_inside, starts[:, None] - self.start + places, 0), is_inside)


def count_positions(lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return each token's place in its text, from 0, for texts of these lengths that lie end to end."""
    ends = np.cumsum(lengths)
    return np.arange(lengths.sum()) - np.repeat(ends - lengths, lengths)


def find_segments(lengths: Sequence[int]) -> list[Segment]:
    """Return the segments of texts that lie end to end; `lengths` is sorted."""
    segments = []
    start = 0
    for length, texts in groupby(lengths):
        end = start + length * len(list(texts))
        segments.append(Segment(start, end, length))
        start = end
    return segments


def find_lengths(segments: Sequence[Segment]) -> list[int]:
    """Return the length of each text."""
    return [part.length for part in segments for _ in range(part.start, part.end, part.length)]


def divide(segments: Sequence[Segment]) -> Iterator[Run]:
    """Yield runs of whole texts that hold about 128 tokens each, or one longer text."""
    texts: list[tuple[int, int]] = []
    for part in segments:
        for start in range(part.start, part.end, part.length):
            if texts and start + part.length - texts[0][0] > _RUN_TOKENS:
                yield Run(tuple(texts))
                texts = []
            texts.append((start, part.length))
    yield Run(tuple(texts))
