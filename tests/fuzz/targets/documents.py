"""Documents, the passages they become, and cached outputs: the topics that workers follow."""

from __future__ import annotations

import msgpack
import numpy as np

from stream_infer.errors import RecordError, StreamInferError
from stream_infer.retrieval.cache import decode_output, encode_output
from stream_infer.retrieval.documents import document_key
from stream_infer.retrieval.passages import (
    Document,
    IndexedPassage,
    Passage,
    PassageLimits,
    decode_passage,
    embedding_text,
    encode_passage,
    parse_passage_key,
    split_document,
)
from stream_infer.schemas import Output
from stream_infer.streams.documents import decode_change
from tests.fuzz.feed import Feed
from tests.fuzz.target import Target, attempt

_LIMITS = PassageLimits(max_chars=40, min_chars=10)


def check_document(data: bytes) -> None:
    """A record is a change under its own key, or refused; passages tell the whole text but whitespace."""
    record = Feed(data).record()
    change = attempt(RecordError, decode_change, record, "default")
    if change is None:
        return
    assert record.key == document_key(change.collection, change.document)
    if isinstance(change, Document):
        _check_split(change)


def check_split(data: bytes) -> None:
    """Any text is split into passages within the limits that hold all of it but whitespace."""
    _check_split(Document("c", "d", "", data.decode(errors="replace")))


def _check_split(document: Document) -> None:
    end = 0
    for number, passage in enumerate(split_document(document, _LIMITS)):
        assert (number, passage.text) == (passage.number, document.text[passage.start : passage.end])
        assert end <= passage.start < passage.end <= passage.start + _LIMITS.max_chars
        assert not document.text[end : passage.start].strip()
        embedding_text(document.title, passage.text)
        end = passage.end
    assert not document.text[end:].strip()


def check_passage(data: bytes) -> None:
    """A record is a passage that can be written again, or refused."""
    feed = Feed(data)
    key, value = feed.piece(), feed.rest()
    attempt(StreamInferError, parse_passage_key, key)
    found = attempt(StreamInferError, decode_passage, key, value)
    if found is None:
        return
    assert np.isfinite(found.vector).all()
    again = decode_passage(*encode_passage(found))
    assert (found.passage, found.revision) == (again.passage, again.revision)
    assert np.array_equal(found.vector, again.vector)


def check_cache_entry(data: bytes) -> None:
    """A value is an output that is written as the same bytes, or refused."""
    found = attempt(StreamInferError, decode_output, data)
    if found is not None:
        assert data == encode_output(found)


_KEY = document_key("c", "d")
_PASSAGE = IndexedPassage(Passage("c", "d", 0, "t", "text", 3, 7), np.array([0.5, -1], np.float16), "r")
_PASSAGE_KEY, _PASSAGE_VALUE = encode_passage(_PASSAGE)
_DOCUMENT = {"document": "d", "collection": "c", "title": "T", "text": "One. Two!\n\nThree? " * 4}
TARGETS = (
    Target(
        "documents",
        check_document,
        (
            bytes(17) + b"\1\3" + _KEY + b"\0\1" + msgpack.packb(_DOCUMENT),
            bytes(17) + b"\1\3" + _KEY + b"\0\0",
        ),
    ),
    Target("splitting", check_split, (_DOCUMENT["text"].encode(), b"a" * 100 + b" " + b"b" * 50)),
    Target("passages", check_passage, (bytes([len(_PASSAGE_KEY)]) + _PASSAGE_KEY + _PASSAGE_VALUE,)),
    Target(
        "cache_entries",
        check_cache_entry,
        (
            encode_output(Output(np.array([1, 2, -3], np.float16), "Olá", truncated=True)),
            encode_output(Output(np.array([1], np.float32))),
            encode_output(Output(text="")),
        ),
        max_bytes=256,
    ),
)
