"""Making a translation look like its source: spaces, closing punctuation and capitals."""

# ruff: noqa: RUF001  # the marks of many scripts are what this module is about
from __future__ import annotations

import re
from itertools import cycle
from typing import Final

_SPACED: Final = re.compile(r"\s+([,.;:!?…)\]]+)(?=\s|$)")
_FRENCH_SPACED: Final = re.compile(r"\s+([,.…)\]]+)(?=\s|$)")
_OPENED: Final = re.compile(r"([(\[¿¡])\s+")
_DOUBLED: Final = re.compile(r" {2,}")
_ENDING: Final = re.compile(r"[.!?…:;。！？：；।؟؛۔]+$")
_FIRST_WORD: Final = re.compile(r"\W*(\w[\w'’]*)")
_WORD: Final = re.compile(r"\w+")
_ENGLISH_I: Final = re.compile(r"\bi\b")

_PLAIN: Final = str.maketrans("。！？：；।؟؛۔", ".!?:;.?;.")
_LOCAL: Final = {
    "zh": str.maketrans(".!?:;", "。！？：；"),
    "ja": str.maketrans(".!?:;", "。！？：；"),
    "ar": str.maketrans("?;", "؟؛"),
    "fa": str.maketrans("?;", "؟؛"),
    "ur": str.maketrans(".?;", "۔؟؛"),
    "hi": str.maketrans(".", "।"),
    "el": str.maketrans("?;", ";·"),
}
_QUOTES: Final = ("“”", "„“", "«»", "「」")
_NOUNS_HAVE_CAPITALS: Final = frozenset({"de", "lb"})
_LEAST_SHOUTED_WORDS: Final = 2


def is_shouted(text: str) -> bool:
    """Say whether `text` is written in capitals only; a single word may be an abbreviation."""
    words = [word for word in _WORD.findall(text) if word.isalpha()]
    return len(words) >= _LEAST_SHOUTED_WORDS and text.isupper()


def calm(text: str, language: str) -> str:
    """Return a text in capitals as a sentence, which models translate better; codes like B2B stay."""
    lowered = _WORD.sub(lambda word: word[0].lower() if word[0].isalpha() else word[0], text)
    if language == "en":
        lowered = _ENGLISH_I.sub("I", lowered)
    return lowered[:1].upper() + lowered[1:]


def match_typography(source: str, translation: str, language: str) -> str:
    """Return `translation`, which is in `language`, spaced, ended, quoted and capitalised as `source` is."""
    spaced = match_spacing(source, translation, language)
    ended = match_ending(source, spaced, language)
    return match_case(source, match_quotes(source, ended), language)


def match_spacing(source: str, translation: str, language: str) -> str:
    """Return `translation` without spaces where the source has none: before marks, within brackets."""
    before_marks = _FRENCH_SPACED if language == "fr" else _SPACED
    for pattern, replacement in ((before_marks, r"\1"), (_OPENED, r"\1"), (_DOUBLED, " ")):
        if not pattern.search(source):
            translation = pattern.sub(replacement, translation)
    return translation.strip()


def match_quotes(source: str, translation: str) -> str:
    """Return `translation` with the quotes and the ellipsis of `source` where it has the plain ones."""
    if "…" in source and "..." not in source:
        translation = translation.replace("...", "…")
    if "’" in source and "'" not in source:
        translation = translation.replace("'", "’")
    pair = next((pair for pair in _QUOTES if all(quote in source for quote in pair)), None)
    if pair is None or '"' in source or translation.count('"') % 2:
        return translation
    opening_and_closing = cycle(pair)
    return "".join(next(opening_and_closing) if sign == '"' else sign for sign in translation)


def match_ending(source: str, translation: str, language: str) -> str:
    """Return `translation` with the closing punctuation of `source`, in the marks of `language`.

    Endings that mean the same stay as they are, and so does what ends in a quote or a bracket.
    """
    wanted, given = _ending(source), _ending(translation)
    bare = translation.removesuffix(given)
    if (
        wanted.translate(_PLAIN) == given.translate(_PLAIN)
        or not _is_open(source, wanted)
        or not _is_open(bare, "")
    ):
        return translation
    return bare.rstrip() + wanted.translate(_PLAIN).translate(_LOCAL.get(language, {}))


def match_case(source: str, translation: str, language: str) -> str:
    """Return `translation` with a first letter as large or small as that of `source`."""
    first, given = _FIRST_WORD.match(source), _FIRST_WORD.match(translation)
    if not first or not given:
        return translation
    start = given.start(1)
    if first[1][0].isupper() and given[1].islower():
        return translation[:start] + translation[start].upper() + translation[start + 1 :]
    # A word that the source has a capital for, wherever it stands there, is a name.
    is_name = given[1] in source or language in _NOUNS_HAVE_CAPITALS
    if first[1].islower() and given[1].istitle() and not is_name:
        return translation[:start] + translation[start].lower() + translation[start + 1 :]
    return translation


def _ending(text: str) -> str:
    match = _ENDING.search(text)
    return match[0] if match else ""


def _is_open(text: str, ending: str) -> bool:
    """Whether nothing closes the text before its ending but a letter, a digit or the like."""
    last = text.removesuffix(ending).rstrip()[-1:]
    return last not in tuple("\"'”’»)]}」』")
