from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream_infer.tasks.placeholders import (
    find_kept,
    find_placeholders,
    has_words,
    keeps_numbers,
    mask,
)

KEPT = [
    "{name}",
    "%(user)s",
    "%s",
    "<b>",
    "</b>",
    "https://a.b/c?d=1",
    "a.b@c.de",
    "🎉",
    "`x y`",
    "C#",
    "€50",
]
TEXTS = st.lists(
    st.sampled_from([*KEPT, " ", "word", ".", "Q1Q", "5", " 12 ", "(", "%", "{", "<", "@", "é"])
).map("".join)


def placeholders(text: str) -> list[str]:
    return [span.of(text) for span in find_placeholders(text)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Hi {name}, you have %d of %(total)s.", ["{name}", "%d", "%(total)s"]),
        ("See https://a.b/c?d=1. Or www.x.org, or a.b@c.de!", ["https://a.b/c?d=1", "www.x.org", "a.b@c.de"]),
        ('<a href="/x y">Log in</a> now', ['<a href="/x y">', "</a>"]),
        ("`rm -rf` in C:\\dir, or ~/x (see a_b).", ["`rm -rf`", "C:\\dir", "~/x", "a_b"]),
        ("€50 or 3.50€, good🎉", ["€50", "3.50€", "🎉"]),
        ("Example: “/about/contact/”, and/or none", ["/about/contact/"]),
        ("50% of 100 % said 5 < 6", ["<"]),
        ("${total} {{ count }} @joe #tag", ["${total}", "{{ count }}", "@joe", "#tag"]),
    ],
)
def test_what_no_translation_may_change_is_found(text: str, expected: list[str]) -> None:
    assert expected == placeholders(text)


@given(TEXTS)
def test_masks_that_come_back_restore_the_text(text: str) -> None:
    masked = mask(text, find_kept(text))
    assert text == masked.restore(masked.text)
    assert all(1 == masked.text.count(name) for name in masked.kept)


def test_masks_may_change_their_places() -> None:
    masked = mask("{a} of %s", find_placeholders("{a} of %s"))
    assert "%s de {a}" == masked.restore("Q2Q de Q1Q")


@pytest.mark.parametrize("translation", ["Q1Q", "Q1Q Q2Q Q2Q", "Q1Qs Q2Q", ""])
def test_a_lost_or_doubled_mask_is_found_out(translation: str) -> None:
    assert mask("{a} of %s", find_placeholders("{a} of %s")).restore(translation) is None


def test_tags_in_another_order_are_found_out() -> None:
    masked = mask("<b>x</b>", find_placeholders("<b>x</b>"))
    assert "Q1Q x Q2Q" == masked.text
    assert "<b>y</b>" == masked.restore("Q1Q y Q2Q")
    assert masked.restore("Q2Q y Q1Q") is None


def test_numbers_come_back_in_any_notation() -> None:
    assert keeps_numbers("It costs 1,250.50 in 2024", "Custa 1.250,50 em 2024")
    assert not keeps_numbers("Order 48213", "Pedido 4821")
    assert keeps_numbers("3 cats", "três gatos")


def test_a_text_of_placeholders_and_numbers_has_no_words() -> None:
    text = "%s: 1234 {name}!"
    assert not has_words(text, find_placeholders(text))
    assert has_words("1234 é", [])
