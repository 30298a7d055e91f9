"""Translations: sentences out, translated sentences in, and the text put together as it was."""

# ruff: noqa: RUF001  # typographic marks are what this module is about
from __future__ import annotations

import re
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from stream_infer.errors import ModelFailedError, UnsupportedLanguageError
from stream_infer.schemas import Output, Recipe, ResultBody, TranslateBody, Work
from stream_infer.sentences import Span, split_sentences
from stream_infer.tasks.placeholders import (
    find_kept,
    find_numbers,
    find_placeholders,
    has_words,
    keeps_numbers,
    mask,
    touched,
)
from stream_infer.tasks.typography import calm, is_shouted, match_typography

_CLAUSE_END: Final = re.compile(r"(?<=[,;:)–—])\s+")
_SPACE: Final = re.compile(r"\s+")
_UNSPACED: Final = frozenset({"zh", "ja", "th", "lo", "km", "my"})
"""Languages that put no space between sentences."""

Rounds = Generator[Sequence[Work], Sequence[Output], None]
Finder = Callable[[str], list[Span]]


@dataclass(frozen=True, slots=True, eq=False)
class TranslationModel:
    """What a recipe must know of a translation model.

    `languages` are directions such as `en-pt`, the default first. `fits(text, direction)` says
    whether the model can read a text whole; it is not asked about ASCII texts of less than
    `max_tokens` characters, which always fit.
    """

    name: str
    languages: Sequence[str]
    fits: Callable[[str, str], bool]
    max_tokens: int


@dataclass(frozen=True, slots=True)
class Direction:
    """From which language into which, in the model's own codes."""

    source: str
    target: str

    @property
    def name(self) -> str:
        """The direction as an option of work."""
        return f"{self.source}-{self.target}"


@dataclass(slots=True)
class Piece:
    """A stretch of the text that is translated on its own, and its translation once there is one.

    `continues` says that it is the rest of a sentence, and not the beginning.
    """

    span: Span
    text: str
    continues: bool = False
    translation: str | None = None
    is_truncated: bool = False


def translate(body: TranslateBody, model: TranslationModel) -> Recipe:
    """Return the translation of the text, sentence by sentence; what lies between them stays.

    1. Every sentence goes to the model with masks for what must be kept (see `placeholders`).
    2. Sentences that lost a number go there again with masks for their numbers too.
    3. Where a mask did not come back, the stretches between what must be kept go there alone.

    A text without words comes back as it is. `truncated` is there, and true, only when a sentence
    could not be read or translated to its end.

    Raises:
        UnsupportedLanguageError: the model does not serve the direction asked for.
    """
    direction = choose_direction(model, body.source, body.target)
    pieces = [
        Piece(span, span.of(body.text), continues=span.start > sentence.start)
        for sentence in _sentences(body.text, direction)
        for span in _cut_to_fit(body.text, sentence, model, direction)
    ]
    worded = [piece for piece in pieces if has_words(piece.text, find_placeholders(piece.text))]
    yield from _translate_masked(worded, model, direction, find_placeholders)
    numbered = [piece for piece in _untranslated(worded) if find_numbers(piece.text)]
    yield from _translate_masked(numbered, model, direction, find_kept)
    yield from _translate_between(_untranslated(worded), model, direction)
    result: ResultBody = {
        "text": _join(body.text, pieces, direction),
        "source": direction.source,
        "target": direction.target,
    }
    if any(piece.is_truncated for piece in pieces):
        result["truncated"] = True
    return result


@lru_cache(maxsize=4_096)  # models of many languages have thousands of directions
def choose_direction(model: TranslationModel, source: str | None, target: str | None) -> Direction:
    """Return the first of the model's directions that fits the languages asked for.

    A language fits when it is the model's code, or when both have the same primary subtag, so that
    `pt-BR` is served by `pt`.

    Raises:
        UnsupportedLanguageError: none fits.
    """
    for name in model.languages:
        direction = Direction(*name.split("-", 1))
        if _serves(direction.source, source) and _serves(direction.target, target):
            return direction
    raise UnsupportedLanguageError(
        f"model {model.name} does not translate from {source or 'any language'} to"
        f" {target or 'any language'}; it has {', '.join(model.languages)}"
    )


def _serves(code: str, asked: str | None) -> bool:
    return asked is None or code.lower() == asked.lower() or _primary(code) == _primary(asked)


def _primary(code: str) -> str:
    return re.split("[-_]", code, maxsplit=1)[0].lower()


def _sentences(text: str, direction: Direction) -> Iterator[Span]:
    """Yield the sentences of `text`; one that ends within a placeholder goes on with the next."""
    kept = iter(find_placeholders(text))
    held = next(kept, None)
    opened: int | None = None
    for sentence in split_sentences(text, direction.source):
        opened = sentence.start if opened is None else opened
        while held and held.end <= sentence.end:
            held = next(kept, None)
        if held and held.start < sentence.end:
            continue
        yield Span(opened, sentence.end)
        opened = None


def _cut_to_fit(text: str, span: Span, model: TranslationModel, direction: Direction) -> list[Span]:
    """Return the sentence in as many pieces as it takes for the model to read each whole."""
    kept = find_placeholders(span.of(text))
    masked = mask(span.of(text), kept).text
    if (masked.isascii() and len(masked) < model.max_tokens) or model.fits(masked, direction.name):
        return [span]
    first, second = _halve(text, span, kept)
    return [
        piece
        for half in (first, second)
        if half.start < half.end
        for piece in _cut_to_fit(text, half, model, direction)
    ]


def _halve(text: str, span: Span, kept: Sequence[Span]) -> tuple[Span, Span]:
    """Return both sides of the gap that is nearest to the middle: behind a clause, else a word.

    A sentence without a gap is cut in its middle, but not within what must be kept, unless it is
    nothing else.
    """
    sentence = span.of(text)
    middle = len(sentence) // 2
    ends = [stretch.end for stretch in kept]
    for gap in (_CLAUSE_END, _SPACE):
        gaps = (Span(match.start(), match.end()) for match in gap.finditer(sentence))
        found = [each for each in gaps if touched(each, kept, ends) is None]
        if found:
            nearest = min(found, key=lambda each: abs(each.start - middle))
            return Span(span.start, span.start + nearest.start), Span(span.start + nearest.end, span.end)
    cut = span.start + _outside(middle, len(sentence), touched(Span(middle - 1, middle + 1), kept, ends))
    return Span(span.start, cut), Span(cut, span.end)


def _outside(middle: int, length: int, kept: Span | None) -> int:
    """Return the place nearest to the middle of a sentence that is not within the kept stretch."""
    edges = [edge for edge in (kept.start, kept.end) if 0 < edge < length] if kept else []
    return min(edges, key=lambda edge: abs(edge - middle), default=middle)


def _untranslated(pieces: Sequence[Piece]) -> list[Piece]:
    return [piece for piece in pieces if piece.translation is None]


def _translate_masked(
    pieces: Sequence[Piece], model: TranslationModel, direction: Direction, find: Finder
) -> Rounds:
    """Translate the pieces with masks for what `find` finds; what loses something is left."""
    masked = [mask(piece.text, find(piece.text)) for piece in pieces]
    outputs = yield from _run([hidden.text for hidden in masked], model, direction)
    for piece, hidden, (translation, is_truncated) in zip(pieces, masked, outputs, strict=True):
        restored = hidden.restore(translation)
        if restored is not None and keeps_numbers(piece.text, restored):
            piece.translation = restored
            piece.is_truncated = is_truncated


def _translate_between(pieces: Sequence[Piece], model: TranslationModel, direction: Direction) -> Rounds:
    """Translate what stands between the kept stretches of each piece, and put it together again."""
    stretches: list[tuple[Piece, str, bool]] = []
    for piece in pieces:
        stretches += [
            (piece, text, is_kept) for text, is_kept in _alternate(piece.text, find_kept(piece.text))
        ]
        piece.translation = ""
    worded = [text.strip() for _, text, is_kept in stretches if not is_kept and has_words(text, [])]
    outputs = iter((yield from _run(worded, model, direction)))
    for piece, text, is_kept in stretches:
        translation, is_truncated = text, False
        if not is_kept and has_words(text, []):
            translation, is_truncated = next(outputs)
            translation = text.replace(text.strip(), translation)
        piece.translation = (piece.translation or "") + translation
        piece.is_truncated |= is_truncated


def _alternate(text: str, kept: Sequence[Span]) -> Iterator[tuple[str, bool]]:
    """Yield the stretches of `text` in order, each with whether it is one of `kept`."""
    end = 0
    for span in kept:
        yield text[end : span.start], False
        yield span.of(text), True
        end = span.end
    yield text[end:], False


def _run(
    texts: Sequence[str], model: TranslationModel, direction: Direction
) -> Generator[Sequence[Work], Sequence[Output], list[tuple[str, bool]]]:
    """Return the translation of each text, in its typography, and whether it was cut off."""
    if not texts:
        return []
    language = _primary(direction.source)
    calmed = [calm(text, language) if is_shouted(text) else text for text in texts]
    outputs = yield [Work(model.name, text, option=direction.name) for text in calmed]
    return [
        (_finish(text, calm_text, output, model, direction), output.truncated)
        for text, calm_text, output in zip(texts, calmed, outputs, strict=True)
    ]


def _finish(text: str, calmed: str, output: Output, model: TranslationModel, direction: Direction) -> str:
    if output.text is None:
        raise ModelFailedError(f"model {model.name!r} gave no text")
    finished = match_typography(calmed, output.text, _primary(direction.target))
    return finished if calmed == text else finished.upper()


def _join(text: str, pieces: Sequence[Piece], direction: Direction) -> str:
    """Put the translations in the places of their sources; translated sentences that touch get a space."""
    parts: list[str] = []
    end = 0
    for piece in pieces:
        gap = text[end : piece.span.start]
        is_sentence = piece.translation is not None and not piece.continues
        touches = is_sentence and not gap and bool(parts) and not text[end - 1].isalnum()
        if touches and _primary(direction.target) not in _UNSPACED:
            gap = " "
        parts += [gap, piece.text if piece.translation is None else piece.translation]
        end = piece.span.end
    return "".join([*parts, text[end:]])
