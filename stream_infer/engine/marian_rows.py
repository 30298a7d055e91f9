"""Rows on their way through the layers of a Marian decoder, in torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Protocol

import torch
from torch import Tensor

from stream_infer.engine.marian_layers import DecoderLayer, Group, group_rows
from stream_infer.engine.marian_lookback import Memory

MEMORY_STEP: Final = 16
"""A row's encoder output is padded to a multiple of this, so that rows of like length attend together."""


class Rows(Protocol):
    """Rows that take one step after the other, and what they look back at."""

    def step(self, hidden: Tensor) -> Tensor:
        """Return the layers' output for the next token of each row, [rows, size]."""
        ...

    def reorder(self, rows: Tensor) -> None:
        """Let each row go on from the past of the given row, which has the same source."""
        ...

    def keep(self, rows: Tensor) -> None:
        """Go on with these rows only, given as ascending indices; a row may go on several times."""
        ...


class TorchRows:
    """Rows whose layers run one after the other.

    `encoded` [tokens, size] are the sources of all rows, of these `lengths`, shortest first.
    """

    def __init__(self, layers: Sequence[DecoderLayer], encoded: Tensor, lengths: Sequence[int]) -> None:
        self._layers = layers
        self._pasts = [layer.past.begin(len(lengths)) for layer in layers]
        self._memories = _remember(layers, encoded, lengths)

    def step(self, hidden: Tensor) -> Tensor:
        """Return the layers' output for the next token of each row, [rows, size]."""
        for number, (layer, past) in enumerate(zip(self._layers, self._pasts, strict=True)):
            hidden = layer(hidden, past, self._memories, number)
        return hidden

    def reorder(self, rows: Tensor) -> None:
        """Let each row go on from the past of the given row, which has the same source."""
        for past in self._pasts:
            past.keep(rows)

    def keep(self, rows: Tensor) -> None:
        """Go on with these rows only, given as ascending indices; a row may go on several times."""
        self.reorder(rows)
        kept, first = [], 0
        for memory in self._memories:
            inside = rows[(rows >= memory.first) & (rows < memory.first + memory.rows)] - memory.first
            if not len(inside):
                continue
            if inside.tolist() != list(range(memory.rows)):
                memory.keep(inside)
            memory.first = first
            first += memory.rows
            kept.append(memory)
        self._memories = kept


def _remember(layers: Sequence[DecoderLayer], encoded: Tensor, lengths: Sequence[int]) -> list[Memory]:
    """Return what the rows attend to, those of like length together."""
    keys_values = [layer.key_value(encoded) for layer in layers]
    padded = [-(-length // MEMORY_STEP) * MEMORY_STEP for length in lengths]
    memories, start = [], 0
    for group in group_rows(padded):
        own = lengths[group.first : group.first + group.rows]
        tokens = [flat[start : start + sum(own)] for flat in keys_values]
        memories.append(_remember_group(tokens, group, own, layers[0].heads))
        start += sum(own)
    return memories


def _remember_group(
    keys_values: Sequence[Tensor], group: Group, lengths: Sequence[int], heads: int
) -> Memory:
    """Return the memory of the rows of `group`, whose own tokens' keys and values are given by layer."""
    first = keys_values[0]
    used = (torch.arange(group.length) < torch.tensor(lengths)[:, None]).to(first.device)
    mask = first.new_zeros(used.shape).masked_fill_(~used, -torch.inf)
    keys, values = [], []
    for flat in keys_values:
        padded = flat.new_zeros(group.rows, group.length, flat.shape[1])
        padded[used] = flat
        key, value = padded.view(group.rows, group.length, 2, heads, -1).permute(2, 0, 3, 1, 4)
        keys.append(key.contiguous())
        values.append(value.contiguous())
    return Memory(group.first, keys, values, mask[:, None, None].expand(-1, heads, -1, -1))
