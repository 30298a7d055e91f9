from __future__ import annotations

from dataclasses import replace

import msgpack
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream_infer.errors import EmptyTextError, InvalidFieldError, RecordError, TooLargeError
from stream_infer.retrieval.passages import (
    MAX_DOCUMENT_CHARS,
    Document,
    IndexedPassage,
    Passage,
    PassageLimits,
    check_document,
    decode_passage,
    embedding_text,
    encode_passage,
    parse_passage_key,
    passage_key,
    split_document,
    stale_keys,
    vector_space,
)
from stream_infer.schemas import ModelInfo

NAMES = st.text(min_size=1, max_size=8, alphabet=st.sampled_from("ab/%2Fé 日"))
PARTS = st.tuples(NAMES, NAMES, st.integers(0, 9))
SHORT = PassageLimits(max_chars=60, min_chars=20)
TEXT = "One fish swam by. Two fish followed it. Red fish stayed at home.\n\nBlue fish had left. The end."


def document(text: str) -> Document:
    return Document("c", "d", "Fish", text)


def indexed(number: int = 3) -> IndexedPassage:
    passage = Passage("c/1", "d%2F", number, "Título", "um peixe", 10, 18)
    return IndexedPassage(passage, np.array([0.5, -1.0, 0.25], np.float16), "encoder@1")


def split(text: str, limits: PassageLimits = SHORT) -> list[Passage]:
    return split_document(document(text), limits)


def test_passages_end_with_sentences_and_paragraphs() -> None:
    assert [
        "One fish swam by. Two fish followed it.",
        "Red fish stayed at home.",
        "Blue fish had left. The end.",
    ] == [passage.text for passage in split(TEXT)]


def test_short_paragraph_stays_with_the_next() -> None:
    assert ["Fish\n\nOne fish swam by. It was red."] == [
        p.text for p in split("Fish\n\nOne fish swam by. It was red.")
    ]


def test_sentence_longer_than_a_passage_is_cut_between_words() -> None:
    assert ["word " * 11 + "word", "word " * 11 + "word", "word"] == [p.text for p in split("word " * 25)]


def test_text_without_spaces_is_cut_anyway() -> None:
    assert [60, 60, 5] == [len(passage.text) for passage in split("x" * 125)]


@pytest.mark.parametrize("gap", [" " * 200, "\n" * 200, "\u3000" * 70])
def test_long_whitespace_within_a_sentence_makes_no_passage(gap: str) -> None:
    assert ["Alpha. b", "c end."] == [passage.text for passage in split(f"Alpha. b{gap}c end.")]


@given(
    st.lists(st.sampled_from(["a", "B. ", " ", "\n", "x" * 70, " " * 70, "\u3000" * 30]), max_size=12).map(
        "".join
    )
)
def test_every_passage_begins_and_ends_with_text(text: str) -> None:
    assert all(passage.text == passage.text.strip() != "" for passage in split(text))


@given(st.text(alphabet=st.sampled_from("aB .!?\n\r\t\u3000日。é"), max_size=400))
def test_passages_cover_the_text_exactly(text: str) -> None:
    """In order, numbered from 0, within the limit, nothing but whitespace left out."""
    passages = split(text)

    assert list(range(len(passages))) == [passage.number for passage in passages]
    assert all(text[p.start : p.end] == p.text and 0 < len(p.text) <= 60 for p in passages)
    edges = [0, *(edge for p in passages for edge in (p.start, p.end)), len(text)]
    assert edges == sorted(edges)
    assert not "".join(text[a:b] for a, b in zip(edges[::2], edges[1::2], strict=True)).strip()
    assert passages == split(text)


@pytest.mark.slow
def test_largest_document_is_split_in_bounded_passages() -> None:
    passages = split_document(document("Short one. " * (MAX_DOCUMENT_CHARS // 11)))

    assert 1_250 <= len(passages) <= 1_400


@pytest.mark.parametrize(
    ("bad", "error"),
    [
        (Document("", "d", "", "text"), InvalidFieldError),
        (Document("c", "d" * 201, "", "text"), InvalidFieldError),
        (Document("c", "d", "t" * 201, "text"), InvalidFieldError),
        (Document("c", "d", "", " \n\u200b"), EmptyTextError),
        (Document("c", "d", "", "x" * (MAX_DOCUMENT_CHARS + 1)), TooLargeError),
    ],
)
def test_unfit_documents_are_refused(bad: Document, error: type[RecordError]) -> None:
    with pytest.raises(error):
        check_document(bad)


def test_embedded_text_opens_with_the_title() -> None:
    assert "Fish. One fish." == embedding_text("Fish", "One\n fish.")
    assert "Fish? One fish." == embedding_text(" Fish? ", "One fish.")
    assert "One fish." == embedding_text("", "One fish.")


@given(PARTS, PARTS)
def test_keys_are_unique_and_read_back(one: tuple[str, str, int], other: tuple[str, str, int]) -> None:
    """A slash or an escape within a name cannot make two passages share a key."""
    assert one == parse_passage_key(passage_key(*one))
    assert (passage_key(*one) == passage_key(*other)) == (one == other)


@pytest.mark.parametrize(
    "key", [b"", b"a/b", b"a/b/c/1", b"a/b/x", b"a/b/-1", b"a/b/01", b"a/%zz/1", b"\xff/b/1"]
)
def test_foreign_keys_are_refused(key: bytes) -> None:
    with pytest.raises(ValueError, match="passage key"):
        parse_passage_key(key)


def test_shrunk_document_leaves_stale_keys() -> None:
    assert [b"c/d/1", b"c/d/2"] == stale_keys("c", "d", old_count=3, new_count=1)
    assert [] == stale_keys("c", "d", old_count=1, new_count=3)


def test_record_reads_back() -> None:
    decoded = decode_passage(*encode_passage(indexed()))

    assert indexed().passage == decoded.passage
    assert "encoder@1" == decoded.revision
    assert [0.5, -1.0, 0.25] == decoded.vector.tolist()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": 2}, "version 1"),
        ({"text": None}, "field text"),
        ({"start": True}, "field start"),
        ({"start": 9}, "does not span"),
        ({"vector": b"odd"}, "float16"),
        ({"vector": b""}, "float16"),
        ({"vector": np.array([np.inf], "<f2").tobytes()}, "infinite"),
    ],
)
def test_damaged_record_names_its_fault(change: dict[str, object], message: str) -> None:
    key, value = encode_passage(indexed())
    damaged = msgpack.packb({**msgpack.unpackb(value), **change})

    with pytest.raises(ValueError, match=message):
        decode_passage(key, damaged)


@pytest.mark.parametrize(
    ("change", "is_shared"),
    [
        ({"device": "cuda:0", "name": "other"}, True),
        ({"revision": "r2"}, False),
        ({"precision": "fp32"}, False),
    ],
)
def test_vectors_compare_across_devices_but_not_models(change: dict[str, str], is_shared: bool) -> None:  # noqa: FBT001 - a table entry
    info = ModelInfo("encoder", "package:x", "r1", "int8", "cpu", 256, dimension=384)

    assert is_shared == (vector_space(info) == vector_space(replace(info, **change)))  # type: ignore[arg-type]  # varies


@given(st.binary(max_size=40))
def test_foreign_bytes_are_a_value_error(value: bytes) -> None:
    with pytest.raises(ValueError, match="passage"):
        decode_passage(b"c/d/0", value)
