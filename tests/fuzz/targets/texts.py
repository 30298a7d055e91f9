"""Texts as they are prepared, cut into sentences, and kept as they were where they must be."""

from __future__ import annotations

from collections.abc import Sequence

from stream_infer.schemas import Output, TranslateBody
from stream_infer.sentences import split_sentences
from stream_infer.tasks.placeholders import find_kept, find_numbers, find_placeholders, keeps_numbers, mask
from stream_infer.tasks.translation import TranslationModel, translate
from stream_infer.tasks.typography import calm, is_shouted, match_typography
from stream_infer.text import prepare_layout, prepare_text
from tests.fuzz.feed import Feed
from tests.fuzz.target import Target

_LANGUAGES = ("en", "pt-BR", "de", "fr", "ja", "ar", "el", "x")
_MODEL = TranslationModel("translator", ("en-pt", "pt-en"), lambda text, _: len(text) < 40, 40)
_TEXT = (
    'Dr. Smith pays €5.50 at 10:30 (<b>now</b>) — see www.a.org/x?y=1, "%(name)s" or `ls -l`. Ça va ?\n\nOK!'
)
_GROWTH = 12
"""A character may become several when it is composed, never more than this for one byte."""


def check_preparation(data: bytes) -> None:
    """Nothing that is not printable is left but whitespace, and prepared text holds single spaces."""
    text = data.decode(errors="replace")
    layout, prepared = prepare_layout(text), prepare_text(text)
    assert prepared.split() == layout.split()
    assert prepared == " ".join(prepared.split())
    assert len(layout) <= _GROWTH * len(data)
    assert not any(ord(character) < 0x20 and not character.isspace() for character in layout)
    layout.encode()


def check_sentences(data: bytes) -> None:
    """Sentences come in order, hold no whitespace at their ends, and between them is nothing else."""
    feed = Feed(data)
    language, text = feed.choice(_LANGUAGES), feed.rest().decode(errors="replace")
    end = 0
    for span in split_sentences(text, language):
        sentence = span.of(text)
        assert end <= span.start < span.end <= len(text)
        assert sentence == sentence.strip()
        assert not text[end : span.start].strip()
        end = span.end
    assert not text[end:].strip()


def check_typography(data: bytes) -> None:
    """A translation keeps its words whatever its marks become."""
    feed = Feed(data)
    language, source = feed.choice(_LANGUAGES), feed.text()
    translation = feed.rest().decode(errors="replace")
    matched = match_typography(source, translation, language)
    assert len(matched) <= _GROWTH * (len(source) + len(translation))
    assert _letters(matched) == _letters(translation)
    if is_shouted(source):
        calm(source, language)
    matched.encode()


def check_placeholders(data: bytes) -> None:
    """What is masked comes back whole; stretches that are kept come in order and do not overlap."""
    text = data.decode(errors="replace")
    for find in (find_placeholders, find_kept):
        spans = find(text)
        bounds = [bound for span in spans for bound in (span.start, span.end)]
        assert bounds == sorted(bounds)
        masked = mask(text, spans)
        assert text == masked.restore(masked.text)
    find_numbers(text)
    assert keeps_numbers(text, text)


def check_translation(data: bytes) -> None:
    """Whatever a model answers, the recipe ends with a text."""
    feed = Feed(data)
    source, answers = feed.text() or "a", [feed.text() for _ in range(feed.below(6))]
    recipe = translate(TranslateBody(source, feed.choice((None, "en", "pt")), None), _MODEL)
    works = next(recipe, None)
    result = None
    while works is not None and result is None:
        try:
            works = recipe.send([Output(text=_answer(work.text, answers, n)) for n, work in enumerate(works)])
        except StopIteration as end:
            result = end.value
    assert result is None or str(result["text"]).encode().decode() == result["text"]


def _answer(text: str, answers: Sequence[str], number: int) -> str:
    """Return what the model says: one of the fuzzer's answers, or what it was asked."""
    return answers[number % len(answers)] if answers else text


def _letters(text: str) -> str:
    return "".join(sorted(character.casefold() for character in text if character.isalnum()))


_SEED = _TEXT.encode()
TARGETS = (
    Target("text", check_preparation, (_SEED, b"a&nbsp;&#x1F600; b&amp;lt;\xe2\x80\x8bc\te\xcc\x81")),
    Target("sentences", check_sentences, (b"\0" + _SEED, b"\1" + _SEED)),
    Target("typography", check_typography, (bytes([0, len(_SEED)]) + _SEED + _SEED[::2],)),
    Target("placeholders", check_placeholders, (_SEED, b"Q1Q {x} Q2Q 12,50")),
    Target("translation", check_translation, (bytes([len(_SEED)]) + _SEED + b"\2\3Q1Q\4a 10\0",)),
)
