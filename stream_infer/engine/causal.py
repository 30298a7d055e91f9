"""Greedy decoding of causal language models over packed rows: no padding, no neighbours.

The new tokens of all rows lie end to end in one row [1, total]; everything but attention works on
tokens alone. Attention runs once for each row, over the keys and values that this row has kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional
from transformers import AttentionInterface

TokenIds = NDArray[np.int32]

ATTENTION: Final = "stream_infer_rows"
SUPPORTED: Final = frozenset({"gemma", "llama", "mistral", "qwen2", "qwen3", "smollm3"})
"""Model types that look at other tokens only in attention and hand unknown arguments on to it."""


class Row:
    """One text on its way: the keys and values of its tokens so far, by layer.

    `capacity` is the most tokens it will hold.
    """

    def __init__(self, capacity: int) -> None:
        self.length = 0
        self._capacity = capacity
        self._kept: dict[int, tuple[Tensor, Tensor]] = {}

    def extend(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Keep the keys and values [heads, new, size] of new tokens; return those of all tokens."""
        if layer not in self._kept:
            self._kept[layer] = (self._room(key), self._room(value))
        end = self.length + key.shape[1]
        for kept, new in zip(self._kept[layer], (key, value), strict=True):
            kept[:, self.length : end] = new
        keys, values = self._kept[layer]
        return keys[:, :end], values[:, :end]

    def _room(self, like: Tensor) -> Tensor:
        return like.new_empty(like.shape[0], self._capacity, like.shape[2])


def rows_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    rows: Sequence[Row],
    bounds: Sequence[int],
    scaling: float | None = None,
    sliding_window: int | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Attend within each row: query, key, value [1, heads, total, size], rows ending at `bounds`.

    Returns [1, total, heads, size].
    """
    del attention_mask
    parts = []
    for row, (start, end) in zip(rows, pairwise((0, *bounds)), strict=True):
        keys, values = row.extend(int(module.layer_idx), key[0, :, start:end], value[0, :, start:end])  # type: ignore[arg-type]  # transformers sets an int
        if sliding_window and end - start == 1:
            keys, values = keys[:, -sliding_window:], values[:, -sliding_window:]
        attended = functional.scaled_dot_product_attention(
            query[:, :, start:end],
            keys[None],
            values[None],
            is_causal=end - start > 1,
            scale=scaling,
            enable_gqa=keys.shape[0] != query.shape[1],
        )
        parts.append(attended.transpose(1, 2))
    return torch.cat(parts, 1), None


AttentionInterface.register(ATTENTION, rows_attention)


class CausalDecoder:
    """Prompts of any lengths on their way through a causal model; `limits` bound their new tokens.

    The model must use the attention named `ATTENTION`.
    """

    def __init__(self, model: Any, prompts: Sequence[TokenIds], limits: Sequence[int]) -> None:
        self._model = model
        self._prompts = prompts
        self._rows = [Row(len(prompt) + limit) for prompt, limit in zip(prompts, limits, strict=True)]

    def step(self, tokens: Tensor | None) -> Tensor:
        """Return each row's likeliest next token, [rows], after `tokens` [rows]; None starts."""
        if tokens is None:
            ids = torch.from_numpy(np.concatenate(self._prompts).astype(np.int64))
            lengths = [len(prompt) for prompt in self._prompts]
        else:
            ids, lengths = tokens, [1] * len(self._rows)
        likeliest: Tensor = self._logits(ids, lengths).argmax(1)
        for row, length in zip(self._rows, lengths, strict=True):
            row.length += length
        return likeliest

    def keep(self, rows: Tensor) -> None:
        """Go on with these rows only, given as ascending indices."""
        self._rows = [self._rows[row] for row in rows.tolist()]

    def _logits(self, ids: Tensor, lengths: Sequence[int]) -> Tensor:
        device = self._model.device
        bounds = list(accumulate(lengths))
        positions = torch.cat(
            [
                torch.arange(row.length, row.length + length)
                for row, length in zip(self._rows, lengths, strict=True)
            ]
        )
        logits: Tensor = self._model(
            input_ids=ids.to(device)[None],
            position_ids=positions.to(device)[None],
            use_cache=False,
            logits_to_keep=torch.tensor(bounds, device=device) - 1,
            rows=self._rows,
            bounds=bounds,
        ).logits[0]
        return logits
