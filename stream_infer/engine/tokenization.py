"""Turning work into token ids, in the loop process: raw tokenizers, no torch."""

from __future__ import annotations

import importlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, Protocol, cast

import numpy as np
from tokenizers import Encoding
from tokenizers import Tokenizer as FastTokenizer

from stream_infer.engine.sources import ModelSource, SourceKind
from stream_infer.engine.specs import ModelKind
from stream_infer.errors import ConfigError
from stream_infer.schemas import Tokens, Work

Span = tuple[int, int]

_DEFAULT_MAX_TOKENS: Final = 512
_UNBOUNDED: Final = 1_000_000
_PAIR_MIN_TOKENS: Final = 32
_BYTE_MAX_TOKENS: Final = 4_096


class Tokenizer(Protocol):
    """What a model's text must pass through before the model."""

    max_tokens: int

    def encode(self, works: Sequence[Work]) -> list[Tokens]:
        """Return the tokens of each piece of work, in order, cut to `max_tokens`. Thread-safe."""
        ...

    def spans(self, work: Work) -> list[Span]:
        """Return each token's characters in `work.pair`, or in `work.text` where there is no pair.

        Tokens that stand for no such characters have (0, 0). Tokenizers that cannot tell return [].
        """
        ...


def load_tokenizer(source: ModelSource, kind: ModelKind = ModelKind.EMBED) -> Tokenizer:
    """Return the tokenizer of a model.

    Translation and generation have tokenizers of their own, in `translation_tokens` and
    `generation_tokens`; each has a `load(source) -> Tokenizer`. The module of a `python:` source
    may have a `tokenizer() -> Tokenizer`; without one, the model reads UTF-8 bytes.

    Raises:
        ConfigError: the model has no tokenizer that can be used here.
    """
    if source.kind is SourceKind.PYTHON:
        make = getattr(importlib.import_module(source.module), "tokenizer", ByteTokenizer)
        return cast("Tokenizer", make())
    if kind in _OWN_TOKENIZERS:
        return cast("Tokenizer", importlib.import_module(_OWN_TOKENIZERS[kind]).load(source))
    return SubwordTokenizer.from_directory(source.model_directory)


_OWN_TOKENIZERS: Final = {
    ModelKind.TRANSLATE: "stream_infer.engine.translation_tokens",
    ModelKind.GENERATE: "stream_infer.engine.generation_tokens",
}


class SubwordTokenizer:
    """A `tokenizer.json`, as Hugging Face models ship it."""

    def __init__(self, path: Path, max_tokens: int) -> None:
        self.max_tokens = max_tokens
        self._single = _load(path)
        self._single.enable_truncation(max_tokens)
        self._pairs = _load(path)
        # The first text is what is asked and stays whole where it can; the second gives way.
        self._pairs.enable_truncation(max_tokens, strategy="only_second")
        self._long_pairs = _load(path)
        self._long_pairs.enable_truncation(max_tokens, strategy="longest_first")
        self._longest_first_text = max_tokens - _PAIR_MIN_TOKENS

    @classmethod
    def from_directory(cls, directory: Path) -> SubwordTokenizer:
        """Return the tokenizer of the model in `directory`, cutting texts at the model's own limit."""
        path = directory / "tokenizer.json"
        if not path.is_file():
            raise ConfigError(f"{directory}: no tokenizer.json; convert the model's tokenizer to one first")
        return cls(path, read_max_tokens(directory))

    def encode(self, works: Sequence[Work]) -> list[Tokens]:
        """Return the tokens of each piece of work, special tokens included, in order."""
        if all(work.pair is None for work in works):
            return [_tokens(encoding) for encoding in self._single.encode_batch_fast([w.text for w in works])]
        return [_tokens(self._encode(work)) for work in works]

    def spans(self, work: Work) -> list[Span]:
        """Return each token's characters in the second text of a pair, else in the only one."""
        encoding = self._encode(work)
        sequence = 0 if work.pair is None else 1
        return [
            (start, end) if owner == sequence else (0, 0)
            for (start, end), owner in zip(encoding.offsets, encoding.sequence_ids, strict=True)
        ]

    def _encode(self, work: Work) -> Encoding:
        if work.pair is None:
            return self._single.encode(work.text)
        first_length = len(self._single.encode(work.text))
        tokenizer = self._pairs if first_length <= self._longest_first_text else self._long_pairs
        return tokenizer.encode(work.text, work.pair)


class ByteTokenizer:
    """The UTF-8 bytes of a text as its token ids."""

    def __init__(self, max_tokens: int = _BYTE_MAX_TOKENS) -> None:
        self.max_tokens = max_tokens

    def encode(self, works: Sequence[Work]) -> list[Tokens]:
        """Return the bytes of each text, cut to `max_tokens`; pairs are not read."""
        texts = [work.text.encode() for work in works]
        return [
            Tokens(
                np.frombuffer(text[: self.max_tokens], np.uint8).astype(np.int32), len(text) > self.max_tokens
            )
            for text in texts
        ]

    def spans(self, work: Work) -> list[Span]:
        """Return nothing: bytes are not characters."""
        del work
        return []


def read_max_tokens(directory: Path) -> int:
    """Return how many tokens the model in `directory` reads: the least limit that its files state."""
    config = _read_json(directory / "config.json")
    limits = [
        _read_json(directory / "sentence_bert_config.json").get("max_seq_length"),
        _read_json(directory / "tokenizer_config.json").get("model_max_length"),
        _positions(config),
    ]
    stated = [int(limit) for limit in limits if isinstance(limit, int | float) and 0 < limit < _UNBOUNDED]
    return min(stated, default=_DEFAULT_MAX_TOKENS)


def _positions(config: dict[str, Any]) -> int | None:
    positions = config.get("max_position_embeddings")
    if not isinstance(positions, int):
        return None
    # These families count positions from behind the padding id.
    is_offset = config.get("model_type") in {"roberta", "xlm-roberta", "camembert", "mpnet"}
    return positions - int(config.get("pad_token_id", 1)) - 1 if is_offset else positions


def _load(path: Path) -> FastTokenizer:
    tokenizer = FastTokenizer.from_file(str(path))
    tokenizer.no_padding()
    return tokenizer


def _tokens(encoding: Encoding) -> Tokens:
    return Tokens(np.array(encoding.ids, np.int32), bool(encoding.overflowing))


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    return cast("dict[str, Any]", json.loads(path.read_text(encoding="utf-8")))
