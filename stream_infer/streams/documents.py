"""What one record of topic `documents` changes on topic `passages`.

Faust stands here, and only here, because this work is what it is made for: one record at a time, in
order, with a small state per key (how many passages a document has) that a changelog brings back
after a restart. The hot path asks for the opposite: many records in flight, finished out of order,
under a deadline, each exactly once. There Faust would cost 70 microseconds an event, where the rest
of the way costs 17, and it commits work that failed or was never begun. A process of its own also
means that a long document, a crash or a hang in this role never delays an event.

Delivery is at least once, and repeating is harmless: the same document gives the same passages
under the same keys. For each record, in this order:

1. the new passage count is recorded if it is greater than the old one, and acknowledged by the
   broker, so that there is never a passage on the topic that no count covers;
2. the passages, and null values for those of the previous version that no longer exist, are
   published and acknowledged;
3. the count is lowered if it shrank;
4. the record's offset is committed, by number, and only then does the next one begin.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from stream_infer.bus.batches import OutRecord
from stream_infer.bus.values import decode_value
from stream_infer.errors import TooLargeError
from stream_infer.retrieval.documents import parse_document_key, read_document
from stream_infer.retrieval.passages import (
    Document,
    IndexedPassage,
    embedding_text,
    encode_passage,
    split_document,
    stale_keys,
)
from stream_infer.schemas import Record

MAX_DOCUMENT_BYTES: Final = 8 * 1024 * 1024
"""The longest document allowed, in the widest encoding, with room for its other fields."""


class Embedder(Protocol):
    """Turns texts into vectors; the service must use the same model for its questions."""

    @property
    def identity(self) -> str:
        """What the vectors were made with, revision and precision included."""
        ...

    async def embed(self, texts: Sequence[str]) -> list[NDArray[np.float16]]:
        """Return the vector of each text, in order; raise `EngineError` where the model cannot."""
        ...


@dataclass(frozen=True, slots=True)
class Removal:
    """A null value: the document and its passages are to go."""

    collection: str
    document: str


Change = Document | Removal


def decode_change(record: Record, default_collection: str) -> Change:
    """Return what the record asks for.

    Raises:
        RecordError: the value is no document, or the key does not name it.
    """
    if record.value is None:
        return Removal(*parse_document_key(record.key))
    if len(record.value) > MAX_DOCUMENT_BYTES:
        raise TooLargeError(f"value has {len(record.value)} bytes, more than {MAX_DOCUMENT_BYTES}")
    content_type = dict(record.headers).get("content-type")
    return read_document(record.key, decode_value(record.value, content_type), default_collection)


async def passage_records(
    change: Change, old_count: int, embedder: Embedder, topic: str
) -> tuple[list[OutRecord], int]:
    """Return the records that bring `topic` from `old_count` passages to the change's, and their number."""
    passages = await embed_passages(change, embedder) if isinstance(change, Document) else []
    records = [OutRecord(topic, *encode_passage(passage)) for passage in passages]
    stale = stale_keys(change.collection, change.document, old_count, len(passages))
    return [*records, *(OutRecord(topic, key, None) for key in stale)], len(passages)


async def embed_passages(document: Document, embedder: Embedder) -> list[IndexedPassage]:
    """Return the document's passages in order, each with its vector."""
    passages = split_document(document)
    vectors = await embedder.embed([embedding_text(passage.title, passage.text) for passage in passages])
    return [
        IndexedPassage(passage, vector, embedder.identity)
        for passage, vector in zip(passages, vectors, strict=True)
    ]
