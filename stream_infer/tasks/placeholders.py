"""What a translation must leave as it is: addresses, format placeholders, markup and code.

Before the model each of them is replaced by a mask, a short name that translation models copy;
afterwards the masks are replaced by what they stand for. A model that lost, doubled or reordered
one is found out, and the sentence is then translated in the pieces between them.
"""

# ruff: noqa: RUF001  # typographic marks are what this module is about
from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Final

from stream_infer.sentences import Span

PLACEHOLDER: Final = re.compile(
    r"""
      `[^`\n]+`                                                  # code
    | </?[A-Za-z][^<>\n]*>                                       # tags
    | (?:\b[a-z][a-z0-9+.-]{0,15}://|\bwww\.)[^\s<>"']*[\w/=]   # addresses
    | [\w.+-]{1,64}@[\w-]{1,63}(?:\.[\w-]{1,63})+              # e-mail
    | %\(\w{1,64}\)[-+0-9.]{0,8}[a-zA-Z]                       # %(name)s
    | %(?:\d{1,2}\$)?[-+0]?\d{0,3}(?:\.\d{1,3})?[sdifgxr](?!\w)  # %s %5.2f %1$s
    | \$?\{\{?[^{}\n]*\}?\}                                     # {name} {0:>5} ${name} {{name}}
    | (?<![\w/~.])/[\w.-]+(?:/[\w.-]+)*/?                          # paths
    | [@\#]\w+                                                 # mentions and hash tags
    | [€£¥₹]\s?\d[\d.,]*\d|[€£¥₹]\s?\d|\d[\d.,]{0,16}\s?[€£¥₹]   # amounts
    | [©®™§¶•·×÷±¼-¾\u2190-\u2bff\ufe0f\u200d\U0001f000-\U0001faff]+  # symbols and emoji
    """,
    re.VERBOSE,
)
_WORD: Final = re.compile(r"\S+")
_OPENING: Final = "\"'“‘«(["
_CLOSING: Final = ".,;:!?…\"'”’»)]"
_CODE_CHARACTERS: Final = frozenset("<>\\^~{}`@#|_")
NUMBER: Final = re.compile(r"\d+(?:[.,:/]\d+)*")
_TAG: Final = re.compile(r"</?[A-Za-z]")
_LEAST_DIGITS: Final = 2
"""Numbers of fewer digits may rightly become words."""
_MASK: Final = re.compile(r"(?<!\w)Q\d+Q(?!\w)")


@dataclass(frozen=True, slots=True)
class Kept:
    """What a mask stands for, and on which sides a word touches it, where the mask needs a space."""

    text: str
    touches_before: bool
    touches_after: bool


@dataclass(frozen=True, slots=True)
class Masked:
    """A sentence with masks where something must be kept; `kept` says what, by mask, in order."""

    text: str
    kept: Mapping[str, Kept]

    def restore(self, translation: str) -> str | None:
        """Return `translation` with the masks replaced by what they stand for.

        None when a mask is missing or doubled, or when tags come in another order.
        """
        if not self.kept:
            return translation
        places = [match for match in _MASK.finditer(translation) if match[0] in self.kept]
        names = [match[0] for match in places]
        if sorted(names) != sorted(self.kept) or self._tags(names) != self._tags(self.kept):
            return None
        parts, end = [], 0
        for match in places:
            kept = self.kept[match[0]]
            before = translation[end : match.start()]
            parts += [before.rstrip() if kept.touches_before else before, kept.text]
            rest = translation[match.end() :]
            end = match.end() + (len(rest) - len(rest.lstrip()) if kept.touches_after else 0)
        return "".join([*parts, translation[end:]])

    def _tags(self, names: Iterable[str]) -> list[str]:
        return [name for name in names if _TAG.match(self.kept[name].text)]


def mask(text: str, spans: Sequence[Span]) -> Masked:
    """Return `text` with a mask for each of `spans`, which are in order and do not overlap."""
    numbers = (number for number in count(1) if f"Q{number}Q" not in text)
    kept: dict[str, Kept] = {}
    parts, end = [], 0
    for span in spans:
        name = f"Q{next(numbers)}Q"
        between = text[end : span.start]
        touches_before = _is_word(between[-1:]) or (span.start == end and end > 0)
        touches_after = _is_word(text[span.end : span.end + 1])
        kept[name] = Kept(span.of(text), touches_before, touches_after)
        parts += [between, " " * touches_before, name, " " * touches_after]
        end = span.end
    return Masked("".join([*parts, text[end:]]), kept)


def _is_word(character: str) -> bool:
    """Return whether a mask that touches the character is not seen as one (`_MASK`)."""
    return character.isalnum() or character == "_"


def find_placeholders(text: str) -> list[Span]:
    """Return the stretches of `text` that no translation may change, in order, none overlapping."""
    found = [Span(match.start(), match.end()) for match in PLACEHOLDER.finditer(text)]
    ends = [span.end for span in found]
    # Words with signs of code in them are kept whole, unless a placeholder is what gives them the sign.
    words = [word for word in _code_words(text) if touched(word, found, ends) is None]
    return sorted(found + words, key=lambda span: span.start)


def find_numbers(text: str) -> list[Span]:
    """Return the numbers of `text` that must come back, in order."""
    matches = (match for match in NUMBER.finditer(text) if len(_digits(match[0])) >= _LEAST_DIGITS)
    return [Span(match.start(), match.end()) for match in matches]


def find_kept(text: str) -> list[Span]:
    """Return the placeholders and the numbers of `text`, in order, none overlapping."""
    found = find_placeholders(text)
    ends = [span.end for span in found]
    numbers = [number for number in find_numbers(text) if touched(number, found, ends) is None]
    return sorted(found + numbers, key=lambda span: span.start)


def has_words(text: str, kept: Sequence[Span]) -> bool:
    """Say whether there is a letter in `text` outside the stretches `kept`."""
    starts = [0, *(span.end for span in kept)]
    ends = [*(span.start for span in kept), len(text)]
    return any(any(map(str.isalpha, text[start:end])) for start, end in zip(starts, ends, strict=True))


def keeps_numbers(source: str, translation: str) -> bool:
    """Say whether every number of `source` is in `translation`, whatever separates its digits."""
    given = _digits(translation)
    return all(_digits(span.of(source)) in given for span in find_numbers(source))


def _code_words(text: str) -> Iterator[Span]:
    for match in _WORD.finditer(text):
        if _CODE_CHARACTERS.isdisjoint(match[0]):
            continue
        word = match[0].rstrip(_CLOSING)
        start = match.end() - len(match[0].lstrip(_OPENING))
        if start < match.start() + len(word):
            yield Span(start, match.start() + len(word))


def touched(span: Span, found: Sequence[Span], ends: Sequence[int]) -> Span | None:
    """Return the first of `found`, whose ends are `ends`, that overlaps `span`."""
    place = bisect_right(ends, span.start)
    return found[place] if place < len(found) and found[place].start < span.end else None


def _digits(text: str) -> str:
    return "".join(character for character in text if character.isdecimal())
