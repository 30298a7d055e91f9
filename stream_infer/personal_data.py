"""Personal data put out of texts, by its form: what is found is replaced before anything else sees the text.

The home of datafog, whose patterns find it. Patterns know forms, not meanings: names and streets stay.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import replace
from enum import StrEnum
from typing import Any

from stream_infer.errors import ConfigError
from stream_infer.schemas import AnswerBody, Body


class PersonalData(StrEnum):
    """Kinds that can be found; the values are what settings call them."""

    EMAIL = "email"
    PHONE = "phone"
    CREDIT_CARD = "credit_card"
    IP_ADDRESS = "ip_address"
    SSN = "ssn"
    DATE = "date"
    ZIP_CODE = "zip_code"


WINDOW_CHARS = 1_024
"""Looked at in one go: the time of some patterns grows with the square of the text."""
SHARED_CHARS = 256
"""What two windows have in common; an address of e-mail has 254 characters at most."""

_LABELS = {kind.value.upper(): kind for kind in PersonalData} | {
    "DOB": PersonalData.DATE,
    "ZIP": PersonalData.ZIP_CODE,
}
"""The library's name of each kind: it takes any date for one of birth, and five digits for a ZIP code."""


class PersonalDataFilter:
    """Replaces personal data of some kinds."""

    def __init__(self, kinds: Collection[PersonalData]) -> None:
        """Compile the patterns once.

        Raises:
            ConfigError: the library is not installed.
        """
        self._kinds = frozenset(kinds)
        self._annotator = _make_annotator()

    def name(self, text: str) -> str:
        """Return the text with the kind in brackets where personal data was."""
        return self._replaced(text, masks=False)

    def mask(self, text: str) -> str:
        """Return the text with as many asterisks as the personal data had characters: places stay."""
        return self._replaced(text, masks=True)

    def apply(self, body: Body) -> Body:
        """Return the body without personal data; places in a context stay, because answers cite them."""
        if isinstance(body, AnswerBody):
            context = None if body.context is None else self.mask(body.context)
            return replace(body, question=self.name(body.question), context=context)
        return replace(body, text=self.name(body.text))

    def _replaced(self, text: str, *, masks: bool) -> str:
        parts, end = [], 0
        for start, stop, kind in self._found(text):
            parts += [text[end:start], "*" * (stop - start) if masks else f"[{kind.name}]"]
            end = stop
        return "".join([*parts, text[end:]])

    def _found(self, text: str) -> Iterator[tuple[int, int, PersonalData]]:
        """Yield what is found in order; of what overlaps, what begins first, and then the longest."""
        found = [
            (start + span.start, start + span.end, _LABELS[span.label])
            for start, stop in _windows(text)
            for span in self._annotator.annotate_with_spans(text[start:stop])[1].spans
            if span.label in _LABELS
        ]
        end = 0
        for start, stop, kind in sorted(found, key=lambda each: (each[0], -each[1])):
            if kind in self._kinds and start >= end:
                yield start, stop, kind
                end = stop


def _windows(text: str) -> Iterator[tuple[int, int]]:
    """Yield stretches that cover the text: what is found is shorter than what two of them share."""
    start = 0
    while start + WINDOW_CHARS < len(text):
        yield start, start + WINDOW_CHARS
        start += WINDOW_CHARS - SHARED_CHARS
    yield start, len(text)


def filter_of(kinds: Collection[PersonalData]) -> PersonalDataFilter | None:
    """Return what puts these kinds out of texts, or None where there are none.

    Raises:
        ConfigError: the library is not installed.
    """
    return PersonalDataFilter(kinds) if kinds else None


def _make_annotator() -> Any:
    try:
        from datafog.processing.text_processing.regex_annotator import RegexAnnotator  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise ConfigError(
            "privacy.personal_data: needs the extra `privacy` (pip install 'stream-infer[privacy]')"
        ) from error
    return RegexAnnotator()
