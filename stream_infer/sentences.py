"""Where the sentences of a text begin and end; everything between two sentences is kept as it was."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

import sentencex

MAX_WINDOW = 4_096
"""Characters segmented at once: the segmenter's time grows with the square of its text on some inputs."""

_LINE = re.compile(r"[^\n\r\x0b\x0c\x1c-\x1e\x85\u2028\u2029]+")
_CONTINUATION = re.compile(r"[:;,)\]}%/=&]")
_WIDE_SPACES = dict.fromkeys(
    (0x85, 0xA0, 0x1680, *range(0x2000, 0x200B), 0x2028, 0x2029, 0x202F, 0x205F, 0x3000), " "
)
_ABBREVIATIONS = {
    "pt": frozenset(
        {"av", "cap", "cia", "ed", "ex", "jr", "ltda", "n", "nº", "núm", "obs", "p", "pág", "profa"}
        | {"sta", "séc", "tel", "vol"}
    ),
    "en": frozenset({"approx", "vol"}),
}
"""Abbreviations before a full stop that the segmenter does not know, in lower case."""


@dataclass(frozen=True, slots=True)
class Span:
    """A stretch of a text, from `start` up to but not including `end`, in characters."""

    start: int
    end: int

    def of(self, text: str) -> str:
        """Return the stretch of `text` that the span covers."""
        return text[self.start : self.end]


def split_sentences(text: str, language: str = "en") -> list[Span]:
    """Return the sentences of `text` in order, without the whitespace around them.

    What lies between two spans is whitespace only, so a text is put together again from the spans
    and the gaps between them. A line break always ends a sentence. `language` is a code such as
    `pt` or `pt-BR`; an unknown one is split by the rules that most languages share.
    """
    return [
        span
        for line in _LINE.finditer(text)
        for start, end in _windows(text, line.start(), line.end())
        for span in _split_window(text, start, end, language)
    ]


def _windows(text: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    """Cut a long line at its last space before `MAX_WINDOW` characters, or there if it has none."""
    while end - start > MAX_WINDOW:
        cut = text.rfind(" ", start + 1, start + MAX_WINDOW)
        cut = start + MAX_WINDOW if cut < 0 else cut
        yield start, cut
        start = cut
    yield start, end


def _split_window(text: str, start: int, end: int, language: str) -> Iterator[Span]:
    """Segment one line; pieces that the segmenter cut off by mistake go back to their sentence.

    The segmenter sees plain spaces only: a wider one after an initial makes it fail.
    """
    primary = language.replace("_", "-").split("-")[0].lower()
    opened: int | None = None
    for piece in sentencex.segment(primary, text[start:end].translate(_WIDE_SPACES)):
        opened = start if opened is None else opened
        start += len(piece)
        if start < end and _is_cut_short(text, opened, start, primary):
            continue
        span = _strip(text, opened, start)
        opened = None
        if span.start < span.end:
            yield span


def _is_cut_short(text: str, start: int, end: int, language: str) -> bool:
    """Whether the sentence goes on after `end`: a mark follows, or an abbreviation stands before it."""
    if _CONTINUATION.match(text, end):
        return True
    words = text[start:end].rstrip().rsplit(None, 1)
    last = words[-1].lower() if words else ""
    return last.endswith(".") and last.lstrip("(\"'").rstrip(".") in _ABBREVIATIONS.get(language, ())


def _strip(text: str, start: int, end: int) -> Span:
    while start < end and text[start].isspace():
        start += 1
    while start < end and text[end - 1].isspace():
        end -= 1
    return Span(start, end)
