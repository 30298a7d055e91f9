"""Marian translation models in torch: the small students, whose decoder is an SSRU, and plain transformers.

The encoder works on flat tokens without padding. SSRU: Kim et al., "From Research to Production and
Back: Ludicrously Fast Neural Machine Translation", 2019.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from copy import copy
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from stream_infer.engine.beams import rank_scores
from stream_infer.engine.greedy import find_largest
from stream_infer.engine.marian_layers import (
    DecoderLayer,
    EncoderLayer,
    Group,
    Memory,
    PackedMarianConfig,
    group_rows,
    sinusoids,
)
from stream_infer.engine.quantization import Int8Linear

MEMORY_STEP = 16
"""A row's encoder output is padded to a multiple of this, so that rows of like length attend together."""


class PackedDecoder:
    """The rows of one batch on their way through the decoder.

    Where `allowed` [rows, vocab_size] says which words each row may be translated with, only the
    words that some row needs are scored at all.
    """

    def __init__(
        self, model: PackedMarian, memories: list[Memory], rows: int, allowed: Tensor | None = None
    ) -> None:
        self._model = model
        self._memories = memories
        self._rows = rows
        self._pasts = [layer.past.begin(rows) for layer in cast("Iterable[Any]", model.decoder)]
        self._step = 0
        self._projection: nn.Module = model.projection
        self._words: Tensor | None = None
        self._penalties: Tensor | None = None
        if allowed is not None:
            self._words = allowed.any(0).nonzero()[:, 0]
            self._projection = select_outputs(model.projection, self._words)
            is_banned = ~allowed.index_select(1, self._words)
            self._penalties = torch.zeros(is_banned.shape).masked_fill_(is_banned, -torch.inf)

    def step(self, tokens: Tensor | None) -> Tensor:
        """Return each row's likeliest next token, [rows], after `tokens` [rows]; None starts."""
        return self._name(find_largest(self._score_allowed(tokens)))

    def rank(self, tokens: Tensor | None, count: int) -> tuple[Tensor, Tensor]:
        """Return each row's likeliest next tokens and their log-probabilities, best first, [rows, count]."""
        places, values = rank_scores(self._score_allowed(tokens), count)
        return self._name(places), values

    def score(self, tokens: Tensor | None) -> Tensor:
        """Return each row's logits of the next token, [rows, scored words]; for `tokens` see `step`."""
        hidden = self._model.place(tokens, self._step, rows=self._rows)
        for number, (layer, past) in enumerate(zip(self._model.decoder, self._pasts, strict=True)):
            hidden = layer(hidden, past, self._memories, number)
        self._step += 1
        logits: Tensor = self._projection(hidden)
        return logits

    def _score_allowed(self, tokens: Tensor | None) -> Tensor:
        scores = self.score(tokens)
        return scores if self._penalties is None else scores.add_(self._penalties)

    def _name(self, places: Tensor) -> Tensor:
        """Return the tokens that stand at these places of the scores."""
        return places if self._words is None else self._words[places]

    def reorder(self, rows: Tensor) -> None:
        """Let each row go on from the past of the given row, which has the same source."""
        for past in self._pasts:
            past.keep(rows)

    def keep(self, rows: Tensor) -> None:
        """Go on with these rows only, given as ascending indices; a row may go on several times."""
        self._rows = len(rows)
        self.reorder(rows)
        if self._penalties is not None:
            self._penalties = self._penalties.index_select(0, rows)
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


class PackedMarian(PreTrainedModel):  # type: ignore[no-untyped-call]  # an untyped hook of transformers
    """A Marian translation model; embeddings and output projection are tied."""

    config_class = PackedMarianConfig
    base_model_prefix = ""
    positions: Tensor
    _tied_weights_keys = {"projection.weight": "embeddings.weight"}  # noqa: RUF012  # transformers' interface

    def __init__(self, config: PackedMarianConfig) -> None:
        super().__init__(config)
        self.embeddings = nn.Embedding(config.vocab_size, config.hidden_size)
        self.encoder = nn.ModuleList(EncoderLayer(config) for _ in range(config.encoder_layers))
        self.decoder = nn.ModuleList(DecoderLayer(config) for _ in range(config.decoder_layers))
        self.projection = nn.Linear(config.hidden_size, config.vocab_size)
        self.register_buffer(
            "positions",
            sinusoids(config.max_positions, config.hidden_size, config.position_steps),
            persistent=False,
        )
        self.post_init()  # type: ignore[no-untyped-call]  # transformers' own

    def place(self, tokens: Tensor | None, position: int, *, rows: int) -> Tensor:
        """Return the decoder's input: the embedded `tokens`, or at the start what stands in their place."""
        signal = self.positions[position]
        if tokens is None and self.config.start_token_id is None:
            return signal.expand(rows, -1)
        if tokens is None:
            tokens = torch.full((rows,), self.config.start_token_id, device=signal.device)
        return torch.add(signal, self.embeddings(tokens), alpha=self.config.embedding_scale)

    def encode(self, ids: Tensor, lengths: Sequence[int]) -> Tensor:
        """Return the encoder's output of rows laid one after the other, [tokens, hidden_size].

        `ids` is [tokens]; `lengths` is sorted and adds up to as many.
        """
        places = torch.cat([self.positions[:length] for length in lengths])
        hidden = torch.add(places, self.embeddings(ids), alpha=self.config.embedding_scale)
        groups = group_rows(lengths)
        for layer in self.encoder:
            hidden = layer(hidden, groups)
        return hidden

    def start(self, ids: Tensor, lengths: Sequence[int], allowed: Tensor | None = None) -> PackedDecoder:
        """Encode the rows and return them ready for decoding; see `encode` and `PackedDecoder`."""
        encoded = self.encode(ids, lengths)
        layers = cast("Iterable[DecoderLayer]", self.decoder)
        keys_values = [layer.key_value(encoded) for layer in layers]
        padded = [-(-length // MEMORY_STEP) * MEMORY_STEP for length in lengths]
        memories, start = [], 0
        for group in group_rows(padded):
            own = lengths[group.first : group.first + group.rows]
            memories.append(self._remember(keys_values, start, group, own))
            start += sum(own)
        return PackedDecoder(self, memories, len(lengths), allowed)

    def _remember(
        self, keys_values: Sequence[Tensor], start: int, group: Group, lengths: Sequence[int]
    ) -> Memory:
        """Return the memory of the rows of `group`, whose tokens begin at `start`."""
        used = torch.arange(group.length) < torch.tensor(lengths)[:, None]
        used = used.to(self.device)
        mask = torch.zeros(used.shape, device=self.device, dtype=keys_values[0].dtype)
        mask.masked_fill_(~used, -torch.inf)
        heads = self.config.num_attention_heads
        keys, values = [], []
        for flat in keys_values:
            padded = flat.new_zeros(group.rows, group.length, flat.shape[1])
            padded[used] = flat[start : start + sum(lengths)]
            key, value = padded.view(group.rows, group.length, 2, heads, -1).permute(2, 0, 3, 1, 4)
            keys.append(key.contiguous())
            values.append(value.contiguous())
        return Memory(group.first, keys, values, mask[:, None, None].expand(-1, heads, -1, -1))


def select_outputs(layer: nn.Module, outputs: Tensor) -> nn.Module:
    """Return a linear layer, plain or 8-bit, that computes only these outputs of `layer`."""
    if isinstance(layer, Int8Linear):
        return layer.select(outputs)
    selected = copy(layer)
    for tensors in ("_parameters", "_buffers"):
        own = {
            name: tensor if tensor is None else tensor.index_select(0, outputs)
            for name, tensor in getattr(layer, tensors).items()
        }
        selected.__dict__[tensors] = own
    selected.__dict__["out_features"] = len(outputs)
    return selected
