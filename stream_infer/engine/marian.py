"""Marian translation models in torch: the small students, whose decoder is an SSRU, and plain transformers.

The encoder works on flat tokens without padding. SSRU: Kim et al., "From Research to Production and
Back: Ludicrously Fast Neural Machine Translation", 2019.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from stream_infer.engine.beams import rank_scores
from stream_infer.engine.greedy import find_largest
from stream_infer.engine.marian_kernels import KernelDecoder, ListedWords
from stream_infer.engine.marian_layers import (
    DecoderLayer,
    EncoderLayer,
    PackedMarianConfig,
    group_rows,
    sinusoids,
)
from stream_infer.engine.marian_rows import Rows, TorchRows
from stream_infer.engine.marian_words import AllWords, CommonWords, Words


class PackedDecoder:
    """The rows of one batch on their way through the decoder, and the words that they choose from."""

    def __init__(self, model: PackedMarian, rows: Rows, words: Words, count: int) -> None:
        self._model = model
        self._rows = rows
        self._words = words
        self._count = count
        self._step = 0

    def step(self, tokens: Tensor | None) -> Tensor:
        """Return each row's likeliest next token, [rows], after `tokens` [rows]; None starts."""
        return self._words.name(find_largest(self.score(tokens)))

    def rank(self, tokens: Tensor | None, count: int) -> tuple[Tensor, Tensor]:
        """Return each row's likeliest next tokens and their log-probabilities, best first, [rows, count]."""
        places, values = rank_scores(self.score(tokens), count)
        return self._words.name(places), values

    def score(self, tokens: Tensor | None) -> Tensor:
        """Return each row's logits of the next token, [rows, scored words]; for `tokens` see `step`."""
        hidden = self._rows.step(self._model.place(tokens, self._step, rows=self._count))
        self._step += 1
        return self._words.score(hidden)

    def reorder(self, rows: Tensor) -> None:
        """Let each row go on from the past of the given row, which has the same source."""
        self._rows.reorder(rows)

    def keep(self, rows: Tensor) -> None:
        """Go on with these rows only, given as ascending indices; a row may go on several times."""
        self._count = len(rows)
        self._rows.keep(rows)
        self._words.keep(rows)


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
        self.kernels: KernelDecoder | None = None
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
        """Encode the rows and return them ready for decoding; see `encode`.

        Where `allowed` [rows, vocab_size] says which words each row may be translated with, only words
        that some row needs are scored at all.
        """
        encoded = self.encode(ids, lengths)
        return PackedDecoder(self, self._begin(encoded, lengths), self._choose(allowed), len(lengths))

    def _begin(self, encoded: Tensor, lengths: Sequence[int]) -> Rows:
        if self.kernels is not None:
            return self.kernels.begin(encoded, lengths)
        return TorchRows(cast("Sequence[DecoderLayer]", self.decoder), encoded, lengths)

    def _choose(self, allowed: Tensor | None) -> Words:
        if allowed is None:
            return AllWords(self.projection)
        if self.kernels is not None and self.kernels.lists_words:
            return ListedWords(self.kernels, allowed)
        return CommonWords(self.projection, allowed)
