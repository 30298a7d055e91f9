"""Documents, the passages they are split into, and a passage's record on the compacted topic `passages`."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import quote, unquote

import msgpack
import numpy as np
from numpy.typing import NDArray

from stream_infer.errors import EmptyTextError, InvalidFieldError, TooLargeError, UnreadableError
from stream_infer.schemas import ModelInfo
from stream_infer.sentences import split_sentences
from stream_infer.text import prepare_text

DEFAULT_COLLECTION: Final = "default"
MAX_NAME_CHARS: Final = 200
MAX_DOCUMENT_CHARS: Final = 1_000_000
PASSAGE_VERSION: Final = 1

_PARAGRAPH: Final = re.compile(r"(?:(?!\n[ \t\r]*\n).)+", re.DOTALL)
_WORD: Final = re.compile(r"\S+")
_STOPS: Final = frozenset({".", "!", "?", ":", "…"})


@dataclass(frozen=True, slots=True)
class Document:
    """A text to answer from, under a name that is its own within the collection."""

    collection: str
    document: str
    title: str
    text: str


@dataclass(frozen=True, slots=True)
class Passage:
    """A stretch of a document: `text` is exactly the document's text from `start` to `end`."""

    collection: str
    document: str
    number: int
    title: str
    text: str
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class IndexedPassage:
    """A passage with its embedding, float16 [dimension], and the vector space that this is of."""

    passage: Passage
    vector: NDArray[np.float16]
    revision: str


def vector_space(info: ModelInfo) -> str:
    """Return what two models share only if their vectors may be compared, whatever device they run on."""
    return f"{info.source}@{info.revision}/{info.precision}/{info.dimension}"


@dataclass(frozen=True, slots=True)
class PassageLimits:
    """How long passages are, in characters.

    A passage of `max_chars` stays within the 256 tokens that small encoders were trained on, for
    languages written with spaces. A blank line ends a passage that has `min_chars` already.
    """

    max_chars: int = 800
    min_chars: int = 200


DEFAULT_LIMITS: Final = PassageLimits()


def embedding_text(title: str, text: str) -> str:
    """Return what is embedded for a stretch of a document: the title says what it is about."""
    head, body = prepare_text(title), prepare_text(text)
    if not head:
        return body
    return f"{head} {body}" if head[-1] in _STOPS else f"{head}. {body}"


def check_document(document: Document) -> None:
    """Refuse a document that cannot be split.

    Raises:
        InvalidFieldError: a name is empty, or it or the title is too long.
        EmptyTextError: the text holds nothing but whitespace.
        TooLargeError: the text is over `MAX_DOCUMENT_CHARS`.
    """
    for field, name in (("collection", document.collection), ("document", document.document)):
        if not 0 < len(name) <= MAX_NAME_CHARS:
            raise InvalidFieldError(f"{field} has {len(name)} characters, not 1 to {MAX_NAME_CHARS}")
    if len(document.title) > MAX_NAME_CHARS:
        raise InvalidFieldError(f"title has {len(document.title)} characters, more than {MAX_NAME_CHARS}")
    if len(document.text) > MAX_DOCUMENT_CHARS:
        raise TooLargeError(f"text has {len(document.text)} characters, more than {MAX_DOCUMENT_CHARS}")
    if not prepare_text(document.text):
        raise EmptyTextError("the document has no text")


def split_document(
    document: Document, limits: PassageLimits = DEFAULT_LIMITS, language: str = "en"
) -> list[Passage]:
    """Return the document's passages in order, numbered from 0; equal documents split equally.

    Passages end where sentences end, and where paragraphs end if they are long enough by then. Only
    a sentence longer than a passage is cut, between words where it has any. What lies between two
    passages is whitespace.
    """
    spans = _pack(list(_pieces(document.text, limits, language)), limits)
    return [
        Passage(
            document.collection,
            document.document,
            number,
            document.title,
            document.text[start:end],
            start,
            end,
        )
        for number, (start, end) in enumerate(spans)
    ]


@dataclass(frozen=True, slots=True)
class _Piece:
    """A sentence, or a part of one that is too long; `ends_paragraph` marks the last of its paragraph."""

    start: int
    end: int
    ends_paragraph: bool


def _pieces(text: str, limits: PassageLimits, language: str) -> Iterator[_Piece]:
    for paragraph in _PARAGRAPH.finditer(text):
        spans = [
            part
            for sentence in split_sentences(paragraph[0], language)
            for part in _cut(paragraph[0], sentence.start, sentence.end, limits.max_chars)
        ]
        last = len(spans) - 1
        for number, (start, end) in enumerate(spans):
            yield _Piece(paragraph.start() + start, paragraph.start() + end, number == last)


def _cut(text: str, start: int, end: int, max_chars: int) -> Iterator[tuple[int, int]]:
    """Yield the stretch in parts of at most `max_chars`, cut at whitespace where there is any.

    The stretch begins and ends with something else than whitespace, and so does each part.
    """
    while end - start > max_chars:
        words = list(_WORD.finditer(text, start, start + max_chars + 1))
        cut = words[-1].start() if len(words) > 1 else start + max_chars
        yield start, start + len(text[start:cut].rstrip())
        start = cut + len(text[cut:end]) - len(text[cut:end].lstrip())
    yield start, end


def _pack(pieces: Sequence[_Piece], limits: PassageLimits) -> Iterator[tuple[int, int]]:
    """Yield the spans of passages, each holding as many pieces as the limits allow."""
    start: int | None = None
    end = 0
    for piece in pieces:
        if start is not None and piece.end - start > limits.max_chars:
            yield start, end
            start = None
        if start is None:
            start = piece.start
        end = piece.end
        if piece.ends_paragraph and end - start >= limits.min_chars:
            yield start, end
            start = None
    if start is not None:
        yield start, end


def passage_key(collection: str, document: str, number: int) -> bytes:
    """Return the passage's key, `collection/document/number`; a slash within a name is escaped."""
    return f"{quote(collection, safe='')}/{quote(document, safe='')}/{number}".encode()


def parse_passage_key(key: bytes) -> tuple[str, str, int]:
    """Return collection, document and number; raise UnreadableError unless `passage_key` made the key."""
    try:
        collection, document, number = key.decode("ascii").split("/")
        parts = unquote(collection, errors="strict"), unquote(document, errors="strict"), int(number)
    except ValueError as error:
        raise UnreadableError("passage key is not collection/document/number") from error
    if passage_key(*parts) != key or parts[2] < 0:
        raise UnreadableError("passage key is not written as this service writes it")
    return parts


def stale_keys(collection: str, document: str, old_count: int, new_count: int) -> list[bytes]:
    """Return the keys to delete when a document of `old_count` passages now has `new_count`."""
    return [passage_key(collection, document, number) for number in range(new_count, old_count)]


def encode_passage(indexed: IndexedPassage) -> tuple[bytes, bytes]:
    """Return key and value of the passage's record on topic `passages`."""
    passage = indexed.passage
    value = {
        "version": PASSAGE_VERSION,
        "title": passage.title,
        "text": passage.text,
        "start": passage.start,
        "end": passage.end,
        "vector": indexed.vector.astype("<f2").tobytes(),
        "revision": indexed.revision,
    }
    return passage_key(passage.collection, passage.document, passage.number), msgpack.packb(value)


_FIELDS: Final = {"title": str, "text": str, "start": int, "end": int, "vector": bytes, "revision": str}


def decode_passage(key: bytes, value: bytes) -> IndexedPassage:
    """Return the passage of a record on topic `passages`.

    Raises:
        UnreadableError: the record is no passage of this version; the message names the fault.
    """
    collection, document, number = parse_passage_key(key)
    fields = _decode_fields(value)
    start, end, text = fields["start"], fields["end"], fields["text"]
    if start < 0 or end - start != len(text):
        raise UnreadableError(f"text of {len(text)} characters does not span {start} to {end}")
    if not fields["vector"] or len(fields["vector"]) % 2:
        raise UnreadableError(f"vector of {len(fields['vector'])} bytes is not float16")
    vector = np.frombuffer(fields["vector"], "<f2")
    if not np.isfinite(vector).all():
        raise UnreadableError("vector holds an infinite value")
    passage = Passage(collection, document, number, fields["title"], text, start, end)
    return IndexedPassage(passage, vector, fields["revision"])


def _decode_fields(value: bytes) -> dict[str, Any]:
    try:
        fields = msgpack.unpackb(value)
    except (ValueError, msgpack.exceptions.UnpackException) as error:
        raise UnreadableError(f"passage is not msgpack: {error}") from error
    if not isinstance(fields, dict) or fields.get("version") != PASSAGE_VERSION:
        raise UnreadableError(f"passage is not a map of version {PASSAGE_VERSION}")
    for name, kind in _FIELDS.items():
        if type(fields.get(name)) is not kind:
            raise UnreadableError(f"passage field {name} is not of type {kind.__name__}")
    return fields
