"""Batches for peers that form none themselves: windows of texts sorted by length, cut into batches."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from itertools import chain
from typing import Final

import numpy as np

from loadgen.peers.setup import Vectors

WINDOW: Final = 256
BATCH: Final = 32

Rows = Sequence[Sequence[int]]


def places_by_length(rows: Sequence[Sized], window: int = WINDOW, batch: int = BATCH) -> Iterator[list[int]]:
    """Yield the places of the rows that run together: sorted by length within each window."""
    for start in range(0, len(rows), window):
        places = range(start, min(start + window, len(rows)))
        ordered = sorted(places, key=lambda place: len(rows[place]))
        for first in range(0, len(ordered), batch):
            yield ordered[first : first + batch]


def embed_by_length(
    rows: Rows, embed: Callable[[Rows], Vectors], each: Callable[..., Iterable[Vectors]] = map
) -> Vectors:
    """Return what `embed` makes of each row, [rows, dimension], in order; `each` maps it over the batches."""
    batches = list(places_by_length(rows))
    found = each(embed, [[rows[place] for place in places] for places in batches])
    vectors = dict(zip(chain.from_iterable(batches), chain.from_iterable(found), strict=True))
    return np.stack([vectors[place] for place in range(len(rows))])


def padded(rows: Rows) -> tuple[np.ndarray, np.ndarray]:
    """Return the ids and the attention mask of a batch, both int64 [rows, longest]."""
    longest = max(map(len, rows))
    ids = np.zeros((len(rows), longest), np.int64)
    mask = np.zeros((len(rows), longest), np.int64)
    for place, row in enumerate(rows):
        ids[place, : len(row)] = row
        mask[place, : len(row)] = 1
    return ids, mask


def mean_over_tokens(hidden: np.ndarray, mask: np.ndarray) -> Vectors:
    """Return the mean of the states [rows, longest, dimension] that the mask [rows, longest] leaves."""
    kept = mask.astype(np.float32)
    means: Vectors = np.einsum("rtd,rt->rd", hidden, kept) / kept.sum(1, keepdims=True)
    return means
