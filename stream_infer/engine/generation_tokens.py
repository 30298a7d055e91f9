"""Prompts to tokens, and generated tokens back to text. No torch."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from tokenizers import AddedToken, Regex, decoders, models, pre_tokenizers
from tokenizers import Tokenizer as FastTokenizer

from stream_infer.engine.gguf_file import GgufFile, read_gguf
from stream_infer.engine.sources import ModelSource
from stream_infer.engine.tokenization import Span, read_max_tokens
from stream_infer.errors import ConfigError
from stream_infer.schemas import Tokens, Work

MAX_PROMPT_TOKENS: Final = 2_048
"""Longer prompts than this are cut, whatever the model could read: their time is what answers wait for."""

_CHAT_MARK: Final = "<|im_start|>"
_CONTROL: Final = 3
"""The token type of marks such as the end of a turn."""
_SINGLE_DIGITS: Final = frozenset({"smollm", "starcoder", "refact", "command-r"})
"""Pre-tokenizers that split numbers into digits and then work as GPT-2's."""
_WHOLE_NUMBERS: Final = frozenset({"gpt-2", "default", "olmo", "jais"})
_QWEN: Final = Regex(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)


class GenerationTokenizer:
    """The vocabulary of a generative model; thread-safe.

    A prompt says by itself where turns begin and end, so nothing is added to it; `adds_marks` is
    for sequence-to-sequence models, whose encoders expect the marks that their tokenizer adds.
    `is_chat` says whether the model knows conversations in ChatML.
    """

    def __init__(self, vocabulary: FastTokenizer, max_tokens: int, *, adds_marks: bool = False) -> None:
        self.max_tokens = max_tokens
        self.is_chat = vocabulary.token_to_id(_CHAT_MARK) is not None
        self._vocabulary = vocabulary
        self._adds_marks = adds_marks

    def encode(self, works: Sequence[Work]) -> list[Tokens]:
        """Return the tokens of each prompt, in order, cut to `max_tokens`."""
        texts = [work.text for work in works]
        rows = self._vocabulary.encode_batch_fast(texts, add_special_tokens=self._adds_marks)
        return [
            Tokens(np.array(row.ids[: self.max_tokens], np.int32), len(row.ids) > self.max_tokens)
            for row in rows
        ]

    def spans(self, work: Work) -> list[Span]:
        """Return nothing: generated text is not a stretch of what was read."""
        del work
        return []

    def count(self, text: str) -> int:
        """Return how many tokens the text takes."""
        return len(self._vocabulary.encode(text, add_special_tokens=False))

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of generated tokens, without marks."""
        return self._vocabulary.decode(list(ids), skip_special_tokens=True)


def load(source: ModelSource) -> GenerationTokenizer:
    """Return the tokenizer of a generative model.

    Raises:
        ConfigError: the model has no tokenizer that can be used here.
    """
    if path := find_gguf(source):
        file = read_gguf(path)
        limit = int(file.get(f"{file.get('general.architecture')}.context_length"))
        return GenerationTokenizer(_from_gguf(file), min(limit, MAX_PROMPT_TOKENS))
    directory = source.model_directory
    path = directory / "tokenizer.json"
    if not path.is_file():
        raise ConfigError(f"{directory}: no tokenizer.json; convert the model's tokenizer to one first")
    vocabulary = FastTokenizer.from_file(str(path))
    vocabulary.no_truncation()
    vocabulary.no_padding()
    limit = min(_read_limit(directory), MAX_PROMPT_TOKENS)
    return GenerationTokenizer(vocabulary, limit, adds_marks=_is_seq2seq(directory))


def find_gguf(source: ModelSource) -> Path | None:
    """Return the source's GGUF file, or None where its weights are in another format.

    Raises:
        ConfigError: there are several, and nothing says which is meant.
    """
    found = [file for file in source.files if file.suffix == ".gguf"]
    if len(found) > 1:
        raise ConfigError(f"{source.text}: {len(found)} GGUF files; keep one in a directory of its own")
    return found[0] if found else None


def _from_gguf(file: GgufFile) -> FastTokenizer:
    """Return the byte-level BPE tokenizer that the file carries."""
    if (model := file.get("tokenizer.ggml.model")) != "gpt2":
        raise ConfigError(f"{file.path}: tokenizer {model!r} is not supported, only byte-level BPE")
    tokens = file.get("tokenizer.ggml.tokens")
    merges = [tuple(merge.split(" ", 1)) for merge in file.get("tokenizer.ggml.merges")]
    vocabulary = FastTokenizer(
        models.BPE({token: number for number, token in enumerate(tokens)}, merges, fuse_unk=False)
    )
    vocabulary.pre_tokenizer = _pre_tokenizer(file)
    vocabulary.decoder = decoders.ByteLevel()
    types = file.get("tokenizer.ggml.token_type")
    vocabulary.add_special_tokens(
        [
            AddedToken(token, special=True, normalized=False)
            for token, kind in zip(tokens, types, strict=True)
            if kind == _CONTROL
        ]
    )
    return vocabulary


def _pre_tokenizer(file: GgufFile) -> Any:
    name = file.metadata.get("tokenizer.ggml.pre", "default")
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False)
    if name in _WHOLE_NUMBERS:
        return byte_level
    if name in _SINGLE_DIGITS:
        return pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), byte_level])
    if name == "qwen2":
        split = pre_tokenizers.Split(_QWEN, "isolated")
        return pre_tokenizers.Sequence(
            [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
        )
    raise ConfigError(f"{file.path}: pre-tokenizer {name!r} is not supported")


def _read_limit(directory: Path) -> int:
    """Return how many tokens the model reads; a sliding window counts, as no mask for one is made here."""
    window = _read_config(directory).get("sliding_window")
    limit = read_max_tokens(directory)
    return min(limit, window) if isinstance(window, int) and window > 0 else limit


def _is_seq2seq(directory: Path) -> bool:
    return bool(_read_config(directory).get("is_encoder_decoder", False))


def _read_config(directory: Path) -> dict[str, Any]:
    path = directory / "config.json"
    if not path.is_file():
        return {}
    config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return config
