"""The replica's side of translation: batches of sentences in, translated sentences out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from itertools import chain
from typing import Final

import torch
from torch import nn

from stream_infer.engine.beams import decode_with_beams
from stream_infer.engine.devices import pick_device, pick_dtype
from stream_infer.engine.directions import find_tiny_models
from stream_infer.engine.fidelity import quantize_honestly
from stream_infer.engine.greedy import Decoded, decode_greedily, follow
from stream_infer.engine.marian import PackedMarian
from stream_infer.engine.marian_fused import quantize_marian
from stream_infer.engine.quantization import quantize
from stream_infer.engine.sources import ModelSource
from stream_infer.engine.specs import ModelSpec, Precision
from stream_infer.engine.streams import Streams, deal, one_core
from stream_infer.engine.tokenization import Tokenizer
from stream_infer.engine.translation_sample import sample_sentences
from stream_infer.engine.translation_tokens import load as load_tokenizer
from stream_infer.engine.translators import Ids, Translator, load_seq2seq, load_tiny
from stream_infer.errors import ConfigError
from stream_infer.schemas import ModelInfo, Output, Tokens, Work

LIMIT_FACTOR: Final = 3
LIMIT_EXTRA: Final = 10
"""A translation is cut at this many times its source's tokens, plus this many."""


class TranslationBackend:
    """A loaded translation model; a batch may mix the directions that it serves."""

    def __init__(self, info: ModelInfo, translators: Mapping[str, Translator], beams: int = 1) -> None:
        self.info = info
        self._translators = translators
        self._beams = beams
        self._streams = Streams()

    def run(self, batch: Sequence[Tokens], options: Sequence[str]) -> list[Output]:
        """Return the translation of each item, in order; `options` are directions.

        A translation that did not end within its limit is cut there and marked as truncated.
        """
        outputs: dict[int, Output] = {}
        for option in dict.fromkeys(options):
            places = [place for place, own in enumerate(options) if own == option]
            outputs |= self._translate(batch, places, self._translators[option])
        return [outputs[place] for place in range(len(batch))]

    def _translate(
        self, batch: Sequence[Tokens], places: Sequence[int], translator: Translator
    ) -> dict[int, Output]:
        """Return the translations of the batch's items at `places`, by place."""
        ordered = sorted(places, key=lambda place: len(batch[place].ids))
        parts = deal(ordered, torch.get_num_threads() if self.info.device == "cpu" else 1)
        translated = self._streams.run(
            lambda part: _translate([batch[place] for place in part], translator, self._beams), parts
        )
        return {
            place: output
            for part, outputs in zip(parts, translated, strict=True)
            for place, output in zip(part, outputs, strict=True)
        }


def load(spec: ModelSpec, source: ModelSource) -> TranslationBackend:
    """Return the translation model that `spec` describes, with all its directions.

    Raises:
        ConfigError: it cannot be read, or its 8-bit tokens agree too little with full precision.
    """
    beams = _count_beams(spec)
    device = pick_device(spec)
    tiny = find_tiny_models(source)
    use_shortlist = bool(spec.options.get("shortlist", True))
    translators: dict[str, Translator] = {
        name: load_tiny(files, use_shortlist=use_shortlist) for name, files in tiny.items()
    } or load_seq2seq(source)
    tokenizer = load_tokenizer(source)
    networks = {id(translator.model): name for name, translator in reversed(translators.items())}
    agreement = 1.0
    for name in networks.values():
        network = translators[name].model.to(device, pick_dtype(spec.precision, device))
        if spec.precision is Precision.INT8:
            check = _TokenCheck(translators[name], _encode_sample(tokenizer, name))
            quantised = quantize_honestly(spec, partial(_quantize, network), check.tokens, int.__eq__)
            agreement = min(agreement, quantised)
    info = ModelInfo(
        spec.name,
        source.text,
        source.revision,
        spec.precision,
        str(device),
        tokenizer.max_tokens,
        agreement=agreement,
        languages=tuple(translators),
    )
    return TranslationBackend(info, translators, beams)


def _quantize(network: nn.Module) -> None:
    if isinstance(network, PackedMarian):
        quantize_marian(network)
    else:
        quantize(network)


def _count_beams(spec: ModelSpec) -> int:
    beams = spec.options.get("num_beams", 1)
    if not isinstance(beams, int) or beams < 1:
        raise ConfigError(f"model {spec.name}: num_beams must be a positive integer, not {beams!r}")
    return beams


def _encode_sample(tokenizer: Tokenizer, direction: str) -> list[Ids]:
    """Return the packaged sentences in the language that `direction` reads, as tokens."""
    language, _, _ = direction.partition("-")
    works = [Work("", sentence, option=direction) for sentence in sample_sentences(language)]
    return [tokens.ids for tokens in tokenizer.encode(works)]


class _TokenCheck:
    """What a network says at each place of the sample's translations at full precision.

    The first call makes those translations; every later one returns the likeliest token at each of
    their places, one after the other, so one slip does not count for the rest of its sentence.
    """

    def __init__(self, translator: Translator, rows: Sequence[Ids]) -> None:
        self._translator = translator
        self._groups = [[rows[place] for place in places] for places in translator.together(rows)]
        self._references: list[list[list[int]]] = []

    @one_core()
    @torch.inference_mode()
    def tokens(self) -> list[int]:
        """Return the tokens."""
        if not self._references:
            self._references = [self._translate(rows) for rows in self._groups]
            return list(chain.from_iterable(chain.from_iterable(self._references)))
        said = (
            follow(self._translator.start(rows), references)
            for rows, references in zip(self._groups, self._references, strict=True)
        )
        return list(chain.from_iterable(chain.from_iterable(said)))

    def _translate(self, rows: Sequence[Ids]) -> list[list[int]]:
        translator = self._translator
        decoded = _decode(rows, translator, beams=1)
        return [row.ids if row.is_cut else [*row.ids, translator.end] for row in decoded]


def _translate(batch: Sequence[Tokens], translator: Translator, beams: int) -> list[Output]:
    outputs: dict[int, Output] = {}
    for places in translator.together([tokens.ids for tokens in batch]):
        rows = [batch[place].ids for place in places]
        decoded = _decode(rows, translator, beams)
        texts = translator.vocabulary.decode([row.ids for row in decoded])
        for place, row, text in zip(places, decoded, texts, strict=True):
            outputs[place] = Output(text=text, truncated=batch[place].truncated or row.is_cut)
    return [outputs[place] for place in range(len(batch))]


def _decode(rows: Sequence[Ids], translator: Translator, beams: int) -> list[Decoded]:
    decoder, limits, ends = translator.start(rows), _limits(rows, translator), {translator.end}
    if beams == 1:
        return decode_greedily(decoder, limits, ends)
    return decode_with_beams(decoder, limits, ends, beams)


def _limits(rows: Sequence[Ids], translator: Translator) -> list[int]:
    longest = translator.max_positions - 1
    return [min(LIMIT_FACTOR * len(row) + LIMIT_EXTRA, longest) for row in rows]
