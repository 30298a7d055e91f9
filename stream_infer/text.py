"""Preparing text before a model sees it; the version is part of every cache key."""

from __future__ import annotations

import html
import re
import unicodedata

PREPARATION_VERSION = 1
"""Raise this when `prepare_text` gives another result for any text: cached values are keyed by it."""

_CONTROLS = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u200b\u2060\ufeff]")


def prepare_text(text: str) -> str:
    """Return the text as classification, questions and passages hand it to a model.

    In this order: HTML entities become their characters, control and zero-width characters become
    spaces, the text is composed (NFC), and each run of whitespace becomes one space. Lone surrogates
    must have been refused before.
    """
    text = _clean(text)
    # Most texts are in order, and to see that takes less time than to split them.
    is_tidy = text.isprintable() and "  " not in text and text == text.strip(" ")
    return text if is_tidy else " ".join(text.split())


def prepare_layout(text: str) -> str:
    """Return the text as translation hands it on: like `prepare_text`, with its whitespace kept."""
    return _clean(text)


def as_given(text: str) -> str:
    """Return the text itself: a context to answer from is cited by its own characters."""
    return text


def _clean(text: str) -> str:
    if "&" in text:
        text = html.unescape(text)
    if not text.isascii():
        text = unicodedata.normalize("NFC", text)
    # Controls are not printable, nor is any space but " ": most texts need no search.
    return text if text.isprintable() else _CONTROLS.sub(" ", text)
