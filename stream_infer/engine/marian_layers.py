"""The layers of Marian translation models.

Every row's attention has a shape that follows from its own length only, so that its numbers do not
depend on the rest of its batch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PretrainedConfig
from transformers.activations import ACT2FN

from stream_infer.engine.marian_lookback import FIRST_CAPACITY, FLOAT, Cell, Memory, Past

_IN_PLACE: Final[Mapping[str, Callable[[Tensor], Tensor]]] = {
    "relu": torch.relu_,
    "swish": partial(functional.silu, inplace=True),
    "silu": partial(functional.silu, inplace=True),
}


class PackedMarianConfig(PretrainedConfig):  # type: ignore[no-untyped-call]  # an untyped hook of transformers
    """Sizes and kind of a Marian model; the defaults are those of the published `tiny11` students.

    The decoder looks at its own past through a recurrent unit, or `is_recurrent` is false and it
    attends to it. It begins with `start_token_id`, or without any token. `position_steps` says how
    many steps lead from the fastest position signal to the slowest.
    """

    model_type = "packed_marian"

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
        is_recurrent: bool = True,
        start_token_id: int | None = None,
        activation: str = "relu",
        layer_norm_epsilon: float = 1e-6,
        embedding_scale: float = 16.0,
        position_steps: int = 127,
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
        self.is_recurrent = is_recurrent
        self.start_token_id = start_token_id
        self.activation = activation
        self.layer_norm_epsilon = layer_norm_epsilon
        self.embedding_scale = embedding_scale
        self.position_steps = position_steps
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
    """Two linear layers with an activation between, added to their input and normalised."""

    def __init__(self, config: PackedMarianConfig) -> None:
        super().__init__()
        self.inner = nn.Linear(config.hidden_size, config.intermediate_size)
        self.outer = nn.Linear(config.intermediate_size, config.hidden_size)
        self.activation = _IN_PLACE.get(config.activation) or ACT2FN[config.activation].forward
        self.arithmetic = FLOAT
        self.norm = nn.LayerNorm(config.hidden_size, config.layer_norm_epsilon)

    def forward(self, hidden: Tensor) -> Tensor:
        """`hidden` is [rows, hidden_size]."""
        added = self.outer(self.activation(self.inner(hidden)))
        return self.arithmetic.normalize(self.norm, hidden + added)


class EncoderLayer(nn.Module):
    """Self-attention within each row, then the feed-forward block."""

    def __init__(self, config: PackedMarianConfig) -> None:
        super().__init__()
        self.heads = config.num_attention_heads
        self.qkv = nn.Linear(config.hidden_size, 3 * config.hidden_size)
        self.attended = nn.Linear(config.hidden_size, config.hidden_size)
        self.norm = nn.LayerNorm(config.hidden_size, config.layer_norm_epsilon)
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


class RecurrentUnit(nn.Module):
    """The simpler simple recurrent unit, added to its input and normalised."""

    def __init__(self, config: PackedMarianConfig) -> None:
        super().__init__()
        size = config.hidden_size
        self.gates = nn.Linear(size, 2 * size)
        self.norm = nn.LayerNorm(size, config.layer_norm_epsilon)
        self.arithmetic = FLOAT

    def begin(self, rows: int) -> Cell:
        """Return the state of so many rows that have no past."""
        return Cell(self.norm.weight.new_zeros(rows, self.gates.out_features // 2))

    def forward(self, hidden: Tensor, past: Cell) -> Tensor:
        """Take one step; `hidden` is [rows, hidden_size], and `past` is updated in place."""
        candidates, gates = self.gates(hidden).chunk(2, dim=1)
        self.arithmetic.mix(candidates, gates, past.values)
        return self.arithmetic.normalize(self.norm, hidden + past.values.relu())


class PastAttention(nn.Module):
    """Attention over a row's own past, added to its input and normalised."""

    def __init__(self, config: PackedMarianConfig) -> None:
        super().__init__()
        size = config.hidden_size
        self.heads = config.num_attention_heads
        self.qkv = nn.Linear(size, 3 * size)
        self.attended = nn.Linear(size, size)
        self.norm = nn.LayerNorm(size, config.layer_norm_epsilon)
        self.arithmetic = FLOAT

    def begin(self, rows: int) -> Past:
        """Return the state of so many rows that have no past."""
        size = self.attended.in_features // self.heads
        return Past(self.norm.weight.new_empty(2, rows, self.heads, FIRST_CAPACITY, size))

    def forward(self, hidden: Tensor, past: Past) -> Tensor:
        """Take one step; `hidden` is [rows, hidden_size], and `past` is updated in place."""
        qkv = self.qkv(hidden).view(hidden.shape[0], 3, self.heads, -1)
        keys, values = past.add(qkv[:, 1:])
        context = self.arithmetic.attend(qkv[:, 0, :, None], keys, values)
        return self.arithmetic.normalize(self.norm, hidden + self.attended(context.view_as(hidden)))


class DecoderLayer(nn.Module):
    """A look at the row's past, attention over the encoder's output, then the feed-forward block."""

    def __init__(self, config: PackedMarianConfig) -> None:
        super().__init__()
        size = config.hidden_size
        self.heads = config.num_attention_heads
        self.past = RecurrentUnit(config) if config.is_recurrent else PastAttention(config)
        self.query = nn.Linear(size, size)
        self.key_value = nn.Linear(size, 2 * size)
        self.attended = nn.Linear(size, size)
        self.norm = nn.LayerNorm(size, config.layer_norm_epsilon)
        self.feed_forward = FeedForward(config)
        self.arithmetic = FLOAT

    def forward(self, hidden: Tensor, past: Cell | Past, memories: Sequence[Memory], layer: int) -> Tensor:
        """Take one step for every row; `hidden` is [rows, hidden_size], `past` is updated in place."""
        hidden = self.past(hidden, past)
        query = self.query(hidden).view(hidden.shape[0], self.heads, 1, -1)
        parts = [memory.attend(self.arithmetic.attend, query, layer) for memory in memories]
        context = (torch.cat(parts) if len(parts) > 1 else parts[0]).view_as(hidden)
        hidden = self.arithmetic.normalize(self.norm, hidden + self.attended(context))
        output: Tensor = self.feed_forward(hidden)
        return output


def sinusoids(positions: int, size: int, steps: int) -> Tensor:
    """Return the position signals, [positions, size]: sines in the first half, cosines in the second.

    Their rates fall by a constant factor, to 1/10,000 in so many `steps`.
    """
    rates = 10_000.0 ** (-np.arange(size // 2) / steps)
    angles = np.arange(positions)[:, None] * rates
    return torch.from_numpy(np.concatenate([np.sin(angles), np.cos(angles)], axis=1).astype(np.float32))
