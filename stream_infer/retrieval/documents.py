"""A document's record on topic `documents`: key `collection/document`, a map of its fields, null to delete.

The key is what keeps the versions of a document in order and what compaction keeps one of, so it has
one spelling only, and a record without it, or with another document's, is refused. Names of ASCII
letters, digits, hyphens, dots, underscores and tildes stand in it as they are; all else is
percent-encoded.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final
from urllib.parse import quote, unquote

from stream_infer.errors import InvalidFieldError, MalformedRecordError
from stream_infer.retrieval.passages import Document, check_document

_NAMES: Final = 2
"""How many names a key holds: collection and document."""


def document_key(collection: str, document: str) -> bytes:
    """Return the key of the document's records."""
    return f"{quote(collection, safe='')}/{quote(document, safe='')}".encode()


def parse_document_key(key: bytes | None) -> tuple[str, str]:
    """Return the collection and the document that a record is about.

    Raises:
        InvalidFieldError: the key is not as `document_key` writes it.
    """
    names = tuple(unquote(name) for name in (key or b"").decode("utf-8", "replace").split("/"))
    if len(names) != _NAMES or not all(names) or key != document_key(*names):
        raise InvalidFieldError("the key is not collection/document, each percent-encoded")
    return names[0], names[1]


def read_document(key: bytes | None, fields: Mapping[str, object], default_collection: str) -> Document:
    """Return the document that a record's key and decoded value describe.

    Without a field `collection` the document is in `default_collection`; the title may be left out.

    Raises:
        InvalidFieldError: a field is missing or has the wrong type, or the key names another document.
        MalformedRecordError: a field is not valid Unicode.
        EmptyTextError: the text holds nothing but whitespace.
        TooLargeError: the text is too long.
    """
    document = document_of(fields, default_collection)
    if parse_document_key(key) != (document.collection, document.document):
        raise InvalidFieldError("the key is not this document's collection/document")
    return document


def document_of(fields: Mapping[str, object], default_collection: str) -> Document:
    """Return the document that a map of fields describes; raises as `read_document` does."""
    document = Document(
        collection=_read_text(fields, "collection", default_collection),
        document=_read_text(fields, "document"),
        title=_read_text(fields, "title", ""),
        text=_read_text(fields, "text"),
    )
    check_document(document)
    return document


def _read_text(fields: Mapping[str, object], name: str, default: str | None = None) -> str:
    value = fields.get(name)
    if value is None:
        value = default
    if value is None:
        raise InvalidFieldError(f"field '{name}' is missing")
    if not isinstance(value, str):
        raise InvalidFieldError(f"field '{name}' is not a string")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise MalformedRecordError(f"field '{name}' holds half of a surrogate pair") from None
    return value
