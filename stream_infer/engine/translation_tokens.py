"""Text to tokens, and translated tokens back to text, for translation models. No torch."""

# ruff: noqa: RUF001  # typographic marks are what this module is about
from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, Protocol

import numpy as np
from sentencepiece import SentencePieceProcessor
from tokenizers import Tokenizer as FastTokenizer

from stream_infer.engine.directions import Direction, find_directions, find_tiny_models, read_json
from stream_infer.engine.sources import ModelSource
from stream_infer.engine.tokenization import Tokenizer, read_max_tokens
from stream_infer.errors import ConfigError
from stream_infer.schemas import Tokens, Work

TINY_MAX_TOKENS: Final = 128
"""The tiny models were trained on sentences; beyond this length their translations fall apart."""

PLAIN_CHARACTERS: Final = str.maketrans(
    dict.fromkeys("“”„‟«»‹›", '"')
    | dict.fromkeys("‘’‚‛´`", "'")
    | dict.fromkeys("‐‑‒–—―", "-")
    | {"…": "..."}
)
"""The tiny models know only the plain forms of quotes and dashes."""

_SOURCE_PIECES: Final = ("source.spm", "sentencepiece.bpe.model", "spiece.model")
_TARGET_PIECES: Final = ("target.spm", *_SOURCE_PIECES[1:])


class Vocabulary(Protocol):
    """Pieces of text and their ids, without special tokens."""

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the ids of each text."""
        ...

    def decode(self, rows: Sequence[Sequence[int]]) -> list[str]:
        """Return the text of each row of ids; special tokens leave no trace."""
        ...


class PieceVocabulary:
    """Sentencepiece models whose own piece numbers are the ids, or with a `table` of ids beside them.

    `plain` says which characters become which others before the source is read.
    """

    def __init__(
        self,
        source: Path,
        target: Path,
        table: Mapping[str, int] | None = None,
        plain: Mapping[int, str] | None = None,
    ) -> None:
        self._source = SentencePieceProcessor(model_file=str(source))
        same = target == source
        self._target = self._source if same else SentencePieceProcessor(model_file=str(target))
        self._ids = table or {}
        self._unknown = self._ids.get("<unk>", 0)
        self._pieces = {number: piece for piece, number in self._ids.items()}
        self._plain = plain or {}

    @property
    def end(self) -> int:
        """The id that ends a sentence, by the sentencepiece model."""
        return int(self._source.eos_id())

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the ids of each text; pieces that the table lacks become the unknown id."""
        plain = [text.translate(self._plain) for text in texts]
        if not self._ids:
            rows: list[list[int]] = self._source.encode(plain)
            return rows
        pieces = self._source.encode(plain, out_type=str)
        return [[self._ids.get(piece, self._unknown) for piece in row] for row in pieces]

    def decode(self, rows: Sequence[Sequence[int]]) -> list[str]:
        """Return the text of each row of ids."""
        if not self._ids:
            texts: list[str] = self._target.decode([[int(number) for number in row] for row in rows])
            return texts
        return [self._target.decode_pieces(self._known(row)) for row in rows]

    def _known(self, row: Sequence[int]) -> list[str]:
        pieces = (self._pieces.get(number, "") for number in row)
        return [
            piece
            for piece in pieces
            if piece and not self._target.is_control(self._target.piece_to_id(piece))
        ]


class FastVocabulary:
    """A `tokenizer.json`."""

    def __init__(self, path: Path) -> None:
        self._tokenizer = FastTokenizer.from_file(str(path))
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the ids of each text, without special tokens."""
        encodings = self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
        return [encoding.ids for encoding in encodings]

    def decode(self, rows: Sequence[Sequence[int]]) -> list[str]:
        """Return the text of each row of ids."""
        return self._tokenizer.decode_batch([list(row) for row in rows], skip_special_tokens=True)


class TranslationTokenizer:
    """The tokenizer of a translation model; a piece of work's option is its direction."""

    def __init__(
        self,
        vocabularies: Mapping[str, Vocabulary],
        directions: Mapping[str, Direction],
        end: int,
        max_tokens: int,
    ) -> None:
        self.max_tokens = max_tokens
        self._vocabularies = vocabularies
        self._directions = directions
        self._end = end

    def encode(self, works: Sequence[Work]) -> list[Tokens]:
        """Return the tokens of each piece of work, in order: prefix, text cut to the limit, end."""
        places: dict[str, list[int]] = {}
        for place, work in enumerate(works):
            places.setdefault(work.option, []).append(place)
        tokens: dict[int, Tokens] = {}
        for option, chosen in places.items():
            tokens |= zip(
                chosen, self._encode_direction(option, [works[i].text for i in chosen]), strict=True
            )
        return [tokens[place] for place in range(len(works))]

    def spans(self, work: Work) -> list[tuple[int, int]]:
        """Return nothing: translation has no use for the place of a token."""
        del work
        return []

    def _encode_direction(self, option: str, texts: Sequence[str]) -> list[Tokens]:
        direction = self._directions[option]
        room = self.max_tokens - len(direction.id_prefix) - 1
        rows = self._vocabularies[option].encode([direction.text_prefix + text for text in texts])
        return [
            Tokens(np.array([*direction.id_prefix, *row[:room], self._end], np.int32), len(row) > room)
            for row in rows
        ]


def load(source: ModelSource) -> Tokenizer:
    """Return the tokenizer of a translation model.

    Raises:
        ConfigError: its vocabulary or languages cannot be found in its files.
    """
    if tiny := find_tiny_models(source):
        vocabularies = {name: load_tiny_vocabulary(files.vocabulary) for name, files in tiny.items()}
        end = next(iter(vocabularies.values())).end
        return TranslationTokenizer(vocabularies, dict.fromkeys(tiny, Direction()), end, TINY_MAX_TOKENS)
    directions = find_directions(source)
    vocabulary = load_vocabulary(source.model_directory)
    config = read_json(source.model_directory / "config.json")
    max_tokens = read_max_tokens(source.model_directory)
    return TranslationTokenizer(
        dict.fromkeys(directions, vocabulary), directions, int(config["eos_token_id"]), max_tokens
    )


def load_tiny_vocabulary(path: Path) -> PieceVocabulary:
    """Return the vocabulary of a tiny Marian model, which source and target share."""
    return PieceVocabulary(path, path, plain=PLAIN_CHARACTERS)


def load_vocabulary(directory: Path) -> Vocabulary:
    """Return the vocabulary of a Hugging Face model: its `tokenizer.json`, else its sentencepiece files.

    Raises:
        ConfigError: it has neither.
    """
    if (fast := directory / "tokenizer.json").is_file():
        return FastVocabulary(fast)
    source = _first_file(directory, _SOURCE_PIECES)
    target = _first_file(directory, _TARGET_PIECES)
    table = read_json(directory / "vocab.json")
    if source is None or target is None or not table:
        raise ConfigError(f"{directory}: neither a tokenizer.json nor sentencepiece models with a vocab.json")
    return PieceVocabulary(source, target, table)


def _first_file(directory: Path, names: Sequence[str]) -> Path | None:
    return next((directory / name for name in names if (directory / name).is_file()), None)
