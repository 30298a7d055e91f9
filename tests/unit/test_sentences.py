# ruff: noqa: RUF001  # marks of other scripts are what is split at
from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream_infer.sentences import MAX_WINDOW, split_sentences

TEXTS = st.text(
    alphabet=st.one_of(
        st.sampled_from("aAJ. \n\t!?\"'()“”…。\u3000\x85\u2028é1:;"), st.characters(codec="utf-8")
    )
)


def sentences(text: str, language: str = "en") -> list[str]:
    return [span.of(text) for span in split_sentences(text, language)]


@given(TEXTS, st.sampled_from(["en", "pt", "zh", "xx"]))
def test_only_whitespace_lies_between_sentences(text: str, language: str) -> None:
    """So a text can be put together again exactly from its sentences and the gaps."""
    end = 0
    for span in split_sentences(text, language):
        assert "" == text[end : span.start].strip()
        assert span.of(text) == span.of(text).strip() != ""
        end = span.end
    assert "" == text[end:].strip()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Dr. Smith paid $3.50. He left!", ["Dr. Smith paid $3.50.", "He left!"]),
        (
            '"Why?" she asked. Go to https://a.b/c.d?e=1 now.',
            ['"Why?" she asked.', "Go to https://a.b/c.d?e=1 now."],
        ),
        ("First line\nSecond line\r\n\r\n  Third.", ["First line", "Second line", "Third."]),
        ("第一句。第二句！", ["第一句。", "第二句！"]),
        ("Version 2.0.1 is out", ["Version 2.0.1 is out"]),
        ("", []),
        (" \n\t ", []),
    ],
)
def test_sentences_end_where_a_reader_ends_them(text: str, expected: list[str]) -> None:
    assert expected == sentences(text)


def test_abbreviations_of_the_language_end_no_sentence() -> None:
    text = "Veja a pág. 5 da Av. Paulista, n. 10. Ex.: isso."
    assert ["Veja a pág. 5 da Av. Paulista, n. 10.", "Ex.: isso."] == sentences(text, "pt-BR")


def test_wide_spaces_after_an_initial_are_no_obstacle() -> None:
    assert ["J.\u00a0K. Rowling wrote it.", "A.\u3000B."] == sentences(
        "J.\u00a0K. Rowling wrote it.\nA.\u3000B."
    )


def test_a_line_without_end_is_cut_at_a_space() -> None:
    text = "word " * MAX_WINDOW
    spans = split_sentences(text)

    assert all(span.end - span.start <= MAX_WINDOW for span in spans)
    assert text.split() == " ".join(span.of(text) for span in spans).split()
