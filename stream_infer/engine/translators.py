"""Translation models of the kinds that can be loaded, each as one direction's translator."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Final, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from transformers import AutoModelForSeq2SeqLM

from stream_infer.engine.beams import RankingDecoder
from stream_infer.engine.directions import TinyModelFiles, find_directions, read_json
from stream_infer.engine.greedy import Decoder
from stream_infer.engine.marian import PackedMarian
from stream_infer.engine.marian_file import read_marian_file
from stream_infer.engine.marian_loading import build_model
from stream_infer.engine.marian_packing import can_be_packed, pack_marian
from stream_infer.engine.seq2seq import Seq2SeqDecoder
from stream_infer.engine.shortlist import Shortlist, read_shortlist
from stream_infer.engine.sources import ModelSource
from stream_infer.engine.translation_tokens import Vocabulary, load_tiny_vocabulary, load_vocabulary
from stream_infer.errors import ConfigError

Ids = NDArray[np.int32]

_UNBOUNDED_POSITIONS: Final = 1_000_000


class TranslationDecoder(Decoder, RankingDecoder, Protocol):
    """Rows on their way through a decoder, greedily or in several beams."""


class Translator(Protocol):
    """A model that translates in one direction; `end` is the token after a translation's last."""

    @property
    def model(self) -> nn.Module:
        """The network."""
        ...

    @property
    def vocabulary(self) -> Vocabulary:
        """How its tokens become text."""
        ...

    @property
    def end(self) -> int:
        """The token that ends a translation."""
        ...

    @property
    def max_positions(self) -> int:
        """The longest translation, in tokens, that the network can make."""
        ...

    def together(self, rows: Sequence[Ids]) -> Iterable[list[int]]:
        """Return which of `rows` are decoded at once: their places, shortest row first."""
        ...

    def start(self, rows: Sequence[Ids]) -> TranslationDecoder:
        """Return these rows, which belong together, encoded and ready for decoding."""
        ...


@dataclass(frozen=True, slots=True)
class PackedTranslator:
    """A packed Marian model; rows of every length run together.

    The shortlist spares a CPU most of the output projection; a GPU has no use for it.
    """

    model: PackedMarian
    vocabulary: Vocabulary
    end: int
    max_positions: int
    shortlist: Shortlist | None = None

    def together(self, rows: Sequence[Ids]) -> Iterable[list[int]]:
        """Return all places, shortest row first."""
        return [_by_length(rows)]

    def start(self, rows: Sequence[Ids]) -> TranslationDecoder:
        """Return the rows, sorted by length, encoded and ready for decoding."""
        ids = torch.from_numpy(np.concatenate(rows).astype(np.int64)).to(self.model.device)
        allowed = None
        if self.shortlist and self.model.device.type == "cpu":
            allowed = torch.from_numpy(self.shortlist.allow(rows))
        return self.model.start(ids, [len(row) for row in rows], allowed)


@dataclass(frozen=True, slots=True)
class Seq2SeqTranslator:
    """One direction of a Hugging Face model; rows of one length run together."""

    model: Any
    vocabulary: Vocabulary
    end: int
    max_positions: int
    first: int | None

    def together(self, rows: Sequence[Ids]) -> Iterable[list[int]]:
        """Return the places by length."""
        return [list(places) for _, places in groupby(_by_length(rows), key=lambda place: len(rows[place]))]

    def start(self, rows: Sequence[Ids]) -> TranslationDecoder:
        """Return the rows, all of one length, encoded and ready for decoding."""
        ids = torch.from_numpy(np.stack(rows).astype(np.int64)).to(self.model.device)
        return Seq2SeqDecoder(self.model, ids, self.first)


def load_tiny(files: TinyModelFiles, *, use_shortlist: bool) -> PackedTranslator:
    """Return a tiny Marian model at full precision, with its shortlist if it has one and it is wanted.

    Raises:
        ConfigError: its files are damaged, or of another kind.
    """
    model = build_model(read_marian_file(files.weights))
    vocabulary = load_tiny_vocabulary(files.vocabulary)
    shortlist = None
    if use_shortlist and files.shortlist:
        shortlist = read_shortlist(files.shortlist, model.config.vocab_size)
    return PackedTranslator(model, vocabulary, vocabulary.end, model.config.max_positions, shortlist)


def load_seq2seq(source: ModelSource) -> dict[str, Translator]:
    """Return a Hugging Face model at full precision, by direction; all directions share the network.

    Raises:
        ConfigError: its files are damaged, or do not say what it translates.
    """
    directory = source.model_directory
    directions = find_directions(source)
    vocabulary = load_vocabulary(directory)
    try:
        model = AutoModelForSeq2SeqLM.from_pretrained(
            directory, local_files_only=True, use_safetensors=True, dtype=torch.float32
        ).eval()
    except (OSError, ValueError) as error:
        raise ConfigError(f"{source.text}: {error}") from error
    positions = getattr(model.config, "max_position_embeddings", _UNBOUNDED_POSITIONS)
    end = int(read_json(directory / "config.json")["eos_token_id"])
    if can_be_packed(model):
        packed = pack_marian(model)
        return {name: PackedTranslator(packed, vocabulary, end, positions) for name in directions}
    return {
        name: Seq2SeqTranslator(model, vocabulary, end, positions, direction.first)
        for name, direction in directions.items()
    }


def _by_length(rows: Sequence[Ids]) -> list[int]:
    return sorted(range(len(rows)), key=lambda place: len(rows[place]))
