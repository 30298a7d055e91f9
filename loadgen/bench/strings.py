"""Real strings with a translator's translation: those of Django's own catalogues."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Final

import django
import polib

COUNT: Final = 149
LEAST_WORDS: Final = 4
_PLACEHOLDER_CHARACTERS: Final = frozenset("%{}<>\n")


def django_strings(language: str = "pt_BR") -> list[tuple[str, str]]:
    """Return pairs of English texts and their translations, the same ones on every machine.

    Of all of Django's catalogues, the singular texts of four words and more without placeholders,
    the first ones in the order of their hashes.
    """
    pairs: dict[str, str] = {}
    for catalogue in sorted(Path(django.__file__).parent.glob(f"**/locale/{language}/LC_MESSAGES/*.po")):
        for entry in polib.pofile(str(catalogue)):
            if _is_plain(entry):
                pairs.setdefault(entry.msgid, entry.msgstr)
    ordered = sorted(pairs, key=lambda text: hashlib.sha256(text.encode()).digest())
    return [(text, pairs[text]) for text in ordered[:COUNT]]


def _is_plain(entry: polib.POEntry) -> bool:
    return (
        entry.translated()
        and not entry.msgid_plural
        and _PLACEHOLDER_CHARACTERS.isdisjoint(entry.msgid + entry.msgstr)
        and len(entry.msgid.split()) >= LEAST_WORDS
    )
