import json
import string
from collections.abc import Sequence

import msgpack
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from stream_infer.bus.client_codec import encode_document
from stream_infer.errors import RecordError
from stream_infer.retrieval.documents import document_key, parse_document_key
from stream_infer.retrieval.passages import Document, decode_passage, passage_key
from stream_infer.schemas import Record
from stream_infer.streams.documents import MAX_DOCUMENT_BYTES, Removal, decode_change, passage_records

NAMES = st.text(min_size=1).filter(lambda name: name.isprintable())


class FakeEmbedder:
    """Gives each text a vector that holds its length, and remembers what it was asked."""

    identity = "fake@1"

    def __init__(self) -> None:
        self.texts: list[str] = []

    async def embed(self, texts: Sequence[str]) -> list[NDArray[np.float16]]:
        """Return the lengths."""
        self.texts += texts
        return [np.array([len(text)], np.float16) for text in texts]


def record(
    value: bytes | None, key: bytes | None = b"tests/doc", headers: tuple[tuple[str, bytes], ...] = ()
) -> Record:
    return Record("documents", 0, 7, 0, key, value, headers)


def body(**changes: object) -> bytes:
    fields = {"collection": "tests", "document": "doc", "title": "Title", "text": "Some text."}
    return msgpack.packb({**fields, **changes})


def document(paragraphs: int) -> Document:
    text = "\n\n".join(f"Paragraph {number}. " + "word " * 60 for number in range(paragraphs))
    return Document("tests", "doc", "Title", text)


@given(NAMES, NAMES)
def test_a_key_names_its_document(collection: str, name: str) -> None:
    assert (collection, name) == parse_document_key(document_key(collection, name))


@given(NAMES, NAMES)
def test_clients_write_the_key_that_is_read(collection: str, name: str) -> None:
    assert document_key(collection, name) == encode_document("t", name, None, collection=collection).key


@pytest.mark.parametrize(
    "key", [None, b"", b"doc", b"tests/", b"/doc", b"a/b/c", b"tests/my doc", b"tests/%64oc", b"\xff/doc"]
)
def test_other_keys_are_refused(key: bytes | None) -> None:
    with pytest.raises(RecordError) as caught:
        decode_change(record(None, key), "default")
    assert "invalid_field" == caught.value.reason


def test_names_of_plain_letters_stand_in_the_key_as_they_are() -> None:
    name = string.ascii_letters + string.digits + "-._~"
    assert f"tests/{name}".encode() == document_key("tests", name)


@pytest.mark.parametrize("encode", [msgpack.packb, lambda fields: json.dumps(fields).encode()])
def test_documents_are_msgpack_or_json(encode: object) -> None:
    fields = {"collection": "tests", "document": "doc", "title": "Title", "text": "Some text."}
    value = encode(fields)  # type: ignore[operator] # either encoder takes a dict
    assert Document(**fields) == decode_change(record(value), "default")


def test_collection_and_title_may_be_left_out() -> None:
    value = msgpack.packb({"document": "doc", "text": "Some text."})
    assert Document("default", "doc", "", "Some text.") == decode_change(
        record(value, b"default/doc"), "default"
    )


def test_a_null_value_removes_the_document_of_its_key() -> None:
    assert Removal("tests", "a/b") == decode_change(record(None, b"tests/a%2Fb"), "default")


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (b"", "malformed"),
        (b"\xc1", "malformed"),
        (b'{"document": "doc", "text": "\\ud800"}', "malformed"),
        (msgpack.packb(["doc"]), "malformed"),
        (body(text=7), "invalid_field"),
        (body(document=None), "invalid_field"),
        (body(title=["a"]), "invalid_field"),
        (body(text=None), "invalid_field"),
        (body(document="other"), "invalid_field"),
        (body(collection="x" * 300), "invalid_field"),
        (body(text=" \n "), "empty_text"),
        (body(text="x" * 1_000_001), "too_large"),
        (b"x" * (MAX_DOCUMENT_BYTES + 1), "too_large"),
    ],
)
def test_bad_documents_have_a_reason(value: bytes, reason: str) -> None:
    with pytest.raises(RecordError) as caught:
        decode_change(record(value), "default")
    assert reason == caught.value.reason


async def test_every_passage_becomes_a_record_with_its_vector() -> None:
    embedder = FakeEmbedder()

    records, count = await passage_records(document(3), 0, embedder, "passages")

    assert 3 == count
    passages = [decode_passage(out.key or b"", out.value or b"") for out in records]
    assert [0, 1, 2] == [indexed.passage.number for indexed in passages]
    assert [[len(text)] for text in embedder.texts] == [indexed.vector.tolist() for indexed in passages]
    assert {"fake@1"} == {indexed.revision for indexed in passages}
    assert {"passages"} == {out.topic for out in records}


async def test_the_title_is_embedded_with_each_passage() -> None:
    embedder = FakeEmbedder()
    await passage_records(document(2), 0, embedder, "passages")
    assert all(text.startswith("Title. Paragraph") for text in embedder.texts)


async def test_passages_of_a_longer_version_before_are_deleted() -> None:
    records, count = await passage_records(document(1), 3, FakeEmbedder(), "passages")

    assert 1 == count
    deleted = [out.key for out in records if out.value is None]
    assert [passage_key("tests", "doc", number) for number in (1, 2)] == deleted


async def test_a_removal_deletes_what_there_was_and_embeds_nothing() -> None:
    embedder = FakeEmbedder()

    records, count = await passage_records(Removal("tests", "doc"), 2, embedder, "passages")

    assert 0 == count
    assert [passage_key("tests", "doc", number) for number in (0, 1)] == [out.key for out in records]
    assert {None} == {out.value for out in records}
    assert [] == embedder.texts


async def test_equal_documents_give_equal_records() -> None:
    first = await passage_records(document(3), 0, FakeEmbedder(), "passages")
    assert first == await passage_records(document(3), 3, FakeEmbedder(), "passages")
