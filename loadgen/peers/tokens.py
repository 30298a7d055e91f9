"""The fastest tokenizer there is, for peers that bring none: `tokenizers` without anything around it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from tokenizers import Tokenizer

from loadgen.peers.setup import Setup

MAX_TOKENS: Final = 256


class RawTokenizer:
    """A model's `tokenizer.json`."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the ids of each text, special tokens included."""
        return [encoding.ids for encoding in self._tokenizer.encode_batch_fast(list(texts))]

    def pieces(self, texts: Sequence[str]) -> list[list[str]]:
        """Return the tokens of each text as strings, special tokens included."""
        # The fast way, which keeps no offsets, keeps no strings either.
        return [encoding.tokens for encoding in self._tokenizer.encode_batch(list(texts))]


def load_tokenizer(setup: Setup) -> RawTokenizer:
    """Return the tokenizer of the model, cutting texts where the service's own cuts them."""
    tokenizer = Tokenizer.from_file(str(setup.directory / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(MAX_TOKENS)
    return RawTokenizer(tokenizer)
