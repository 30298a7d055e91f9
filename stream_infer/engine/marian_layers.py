"""The parts of the small Marian translation models: layers, and what decoding attends to.

Every row's attention has a shape that follows from its own length only, so that its numbers do not
depend on the rest of its batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PretrainedConfig

LAYER_NORM_EPSILON = 1e-6


class TinyMarianConfig(PretrainedConfig):  # type: ignore[no-untyped-call]  # an untyped hook of transformers
    """Sizes of a tiny Marian model; the defaults are those of the published `tiny11` students."""

    model_type = "tiny_marian"

    def __init__(
        self,
        *,
        vocab_size: int = 32_000,
        hidden_size: int = 256,
        intermediate_size: int = 1_536,
        num_attention_heads: int = 8,
        encoder_layers: int = 6,
        decoder_layers: int = 2,
        max_positions: int = 1_024,
        eos_token_id: int = 0,
        **rest: Any,
    ) -> None:
        self.vocab_size = vocab_size
        self.hidden_size = hidden_size
        self.intermediate_size = intermediate_size
        self.num_attention_heads = num_attention_heads
        self.encoder_layers = encoder_layers
        self.decoder_layers = decoder_layers
        self.max_positions = max_positions
        self.eos_token_id = eos_token_id
        super().__init__(**rest)


@dataclass(frozen=True, slots=True)
class Group:
    """Rows next to each other that attend together: `rows` of them, each `length` tokens long."""

    first: int
    rows: int
    length: int


def group_rows(lengths: Sequence[int]) -> list[Group]:
    """Return the runs of equal length in `lengths`, which are sorted."""
    groups: list[Group] = []
    for row, length in enumerate(lengths):
        if groups and groups[-1].length == length:
            groups[-1] = Group(groups[-1].first, groups[-1].rows + 1, length)
        else:
            groups.append(Group(row, 1, length))
    return groups


class FeedForward(nn.Module):
    """Two linear layers with a ReLU between, added to their input and normalised."""

    def __init__(self, config: TinyMarianConfig) -> None:
        super().__init__()
        self.inner = nn.Linear(config.hidden_size, config.intermediate_size)
        self.outer = nn.Linear(config.intermediate_size, config.hidden_size)
        self.norm = nn.LayerNorm(config.hidden_size, LAYER_NORM_EPSILON)

    def forward(self, hidden: Tensor) -> Tensor:
        """`hidden` is [rows, hidden_size]."""
        output: Tensor = self.norm(hidden + self.outer(self.inner(hidden).relu_()))
        return output


class EncoderLayer(nn.Module):
    """Self-attention within each row, then the feed-forward block."""

    def __init__(self, config: TinyMarianConfig) -> None:
        super().__init__()
        self.heads = config.num_attention_heads
        self.qkv = nn.Linear(config.hidden_size, 3 * config.hidden_size)
        self.attended = nn.Linear(config.hidden_size, config.hidden_size)
        self.norm = nn.LayerNorm(config.hidden_size, LAYER_NORM_EPSILON)
        self.feed_forward = FeedForward(config)

    def forward(self, hidden: Tensor, groups: Sequence[Group]) -> Tensor:
        """`hidden` is [tokens, hidden_size], the rows one after the other."""
        qkv = self.qkv(hidden)
        context = torch.empty_like(hidden)
        start = 0
        for group in groups:
            end = start + group.rows * group.length
            query, key, value = qkv[start:end].view(group.rows, group.length, 3, self.heads, -1).unbind(2)
            attended = functional.scaled_dot_product_attention(
                query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2)
            )
            context[start:end] = attended.transpose(1, 2).reshape(end - start, -1)
            start = end
        hidden = self.norm(hidden + self.attended(context))
        output: Tensor = self.feed_forward(hidden)
        return output


class DecoderLayer(nn.Module):
    """The recurrent unit, attention over the encoder's output, then the feed-forward block."""

    def __init__(self, config: TinyMarianConfig) -> None:
        super().__init__()
        size = config.hidden_size
        self.heads = config.num_attention_heads
        self.recurrent = nn.Linear(size, 2 * size)
        self.recurrent_norm = nn.LayerNorm(size, LAYER_NORM_EPSILON)
        self.query = nn.Linear(size, size)
        self.key_value = nn.Linear(size, 2 * size)
        self.attended = nn.Linear(size, size)
        self.norm = nn.LayerNorm(size, LAYER_NORM_EPSILON)
        self.feed_forward = FeedForward(config)

    def forward(self, hidden: Tensor, cell: Tensor, memories: Sequence[Memory], layer: int) -> Tensor:
        """Take one step for every row; `cell` [rows, hidden_size] is updated in place."""
        candidate, gate = self.recurrent(hidden).chunk(2, dim=1)
        torch.lerp(candidate, cell, gate.sigmoid(), out=cell)
        hidden = self.recurrent_norm(hidden + cell.relu())
        query = self.query(hidden).view(hidden.shape[0], self.heads, 1, -1)
        parts = [memory.attend(query, layer) for memory in memories]
        context = (torch.cat(parts) if len(parts) > 1 else parts[0]).view_as(hidden)
        hidden = self.norm(hidden + self.attended(context))
        output: Tensor = self.feed_forward(hidden)
        return output


@dataclass(slots=True)
class Memory:
    """What rows of like length attend to while they are decoded.

    `keys` and `values` hold one [rows, heads, length, head_size] tensor a layer; `mask` is 0 for
    tokens and minus infinity for padding, [rows, heads, 1, length].
    """

    first: int
    keys: list[Tensor]
    values: list[Tensor]
    mask: Tensor

    @property
    def rows(self) -> int:
        """Number of rows, which follow each other from `first` on."""
        return self.mask.shape[0]

    def attend(self, queries: Tensor, layer: int) -> Tensor:
        """Return the context of this memory's rows of `queries` [all rows, heads, 1, head_size]."""
        own = queries[self.first : self.first + self.rows]
        return attend_once(own, self.keys[layer], self.values[layer], self.mask)

    def keep(self, rows: Tensor) -> None:
        """Go on with these rows only, given as ascending indices into this memory's own."""
        self.keys = [key.index_select(0, rows) for key in self.keys]
        self.values = [value.index_select(0, rows) for value in self.values]
        self.mask = self.mask.index_select(0, rows)


def attend_once(queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor) -> Tensor:
    """Return the contexts [rows, heads, 1, size] of one query a row and head, [rows, heads, 1, size].

    `keys` and `values` are [rows, heads, length, size], `mask` is added to the scores. Twice as fast
    as the fused attention for a single query: that one is made for many.
    """
    scores = torch.baddbmm(
        mask.flatten(0, 1), queries.flatten(0, 1), keys.flatten(0, 1).mT, alpha=queries.shape[-1] ** -0.5
    )
    return torch.bmm(scores.softmax(-1), values.flatten(0, 1)).view_as(queries)


def sinusoids(positions: int, size: int) -> Tensor:
    """Return the position signals, [positions, size]: sines in the first half, cosines in the second."""
    half = size // 2
    rates = np.exp(np.arange(half) * -(np.log(10_000.0) / (half - 1)))
    angles = np.arange(positions)[:, None] * rates
    return torch.from_numpy(np.concatenate([np.sin(angles), np.cos(angles)], axis=1).astype(np.float32))
