"""Decoding of Hugging Face sequence-to-sequence models: Marian, T5, M2M100, NLLB, mBART."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, EncoderDecoderCache

from stream_infer.engine.beams import rank_scores
from stream_infer.engine.greedy import find_largest


class Seq2SeqDecoder:
    """Rows of one length on their way through a model's decoder.

    The rows of a batch have the same length, so there is neither padding nor a mask, and each row's
    numbers are those it would have alone. `first` is the token that every translation begins with.
    """

    def __init__(self, model: Any, ids: Tensor, first: int | None) -> None:
        settings = model.generation_config
        self._model = model
        self._encoded = model.get_encoder()(input_ids=ids).last_hidden_state
        self._cache = EncoderDecoderCache(DynamicCache(), DynamicCache())
        self._start = settings.decoder_start_token_id
        self._first = settings.forced_bos_token_id if first is None else first
        self._banned = [words[0] for words in settings.bad_words_ids or () if len(words) == 1]

    def step(self, tokens: Tensor | None) -> Tensor:
        """Return each row's likeliest next token, [rows], after `tokens` [rows]; None starts."""
        return find_largest(self._score(tokens))

    def rank(self, tokens: Tensor | None, count: int) -> tuple[Tensor, Tensor]:
        """Return each row's likeliest next tokens and their log-probabilities, best first, [rows, count]."""
        return rank_scores(self._score(tokens), count)

    def _score(self, tokens: Tensor | None) -> Tensor:
        """Return the logits of each row's next token, [rows, words]; minus infinity is no choice."""
        is_start = tokens is None
        if tokens is None:
            tokens = torch.full((self._encoded.shape[0],), self._start, device=self._encoded.device)
        logits: Tensor = self._model(
            decoder_input_ids=tokens[:, None],
            encoder_outputs=(self._encoded,),
            past_key_values=self._cache,
            use_cache=True,
        ).logits[:, -1]
        if is_start and self._first is not None:
            only = torch.full_like(logits, -torch.inf)
            only[:, self._first] = 0.0
            return only
        logits[:, self._banned] = -torch.inf
        return logits

    def reorder(self, rows: Tensor) -> None:
        """Let each row go on from the past of the given row, which has the same source."""
        self._cache.self_attention_cache.batch_select_indices(rows)

    def keep(self, rows: Tensor) -> None:
        """Go on with these rows only, given as ascending indices; a row may go on several times."""
        self._encoded = self._encoded[rows]
        self._cache.batch_select_indices(rows)
