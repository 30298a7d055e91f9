"""Preparing text: what is kept, what goes, and that nothing raises."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream_infer.text import prepare_layout, prepare_text


@pytest.mark.parametrize(
    ("given_text", "prepared"),
    [
        ("  two\t words\n", "two words"),
        ("fish &amp; chips", "fish & chips"),
        ("cafe\u0301", "caf\u00e9"),
        ("a\x00b\u200bc\ufeff", "a b c"),
        ("\u00a0\u3000", ""),
        ("plain", "plain"),
    ],
)
def test_prepared(given_text: str, prepared: str) -> None:
    assert prepared == prepare_text(given_text)


@given(st.text())
def test_prepared_text_is_composed_and_single_spaced(text: str) -> None:
    prepared = prepare_text(text)

    assert prepared == unicodedata.normalize("NFC", prepared)
    assert "  " not in prepared
    assert prepared == prepared.strip()


@given(st.text("a \t\u00a0\u200b\u3000"))
def test_a_text_in_order_is_prepared_like_any_other(text: str) -> None:
    """The short way, which most texts take, ends where the long one does."""
    assert " ".join(text.replace("\u200b", " ").split()) == prepare_text(text)


@given(st.text().filter(lambda text: "&" not in text))
def test_preparing_twice_changes_nothing(text: str) -> None:
    assert prepare_text(text) == prepare_text(prepare_text(text))


def test_layout_is_kept_for_translation() -> None:
    assert "Dear Ana,\n\n  café\tnow" == prepare_layout("Dear Ana,\n\n  cafe\u0301\tnow")
