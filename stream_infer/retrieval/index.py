"""Passages found by what they mean: an exact search over their embeddings, one index per collection."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

import faiss
import numpy as np
from numpy.typing import NDArray

from stream_infer.retrieval.passages import Passage, passage_key

Vector = NDArray[np.float16 | np.float32]

_DECIMALS: Final = 6
_TIE: Final = 10.0**-_DECIMALS
"""Scores are told apart down to this; below it the key decides the order."""
_MARGIN: Final = 8
_SLOT_OVERHEAD_BYTES: Final = 400
"""What a passage costs beside its vector and texts: objects, key and table slots."""

# Searches run on the loop process, whose other cores belong to the replicas.
faiss.omp_set_num_threads(1)


@dataclass(frozen=True, slots=True)
class Hit:
    """A passage that was found; `score` is the cosine between it and what was searched."""

    passage: Passage
    score: float


class PassageIndex:
    """The passages of every collection, searched exactly; the same passages give the same hits in any order.

    A search reads every vector of its collection: 0.13 ms per 1,000 passages of 384 dimensions.
    Adding, replacing and deleting cost the same however many passages there are (deleting: 5 us
    more per 1,000). Not for use from two threads at once.
    """

    def __init__(self, max_passages: int = 100_000) -> None:
        self._max_passages = max_passages
        self._shelves: dict[str, _Shelf] = {}
        self._collections: dict[bytes, str] = {}

    def __len__(self) -> int:
        return len(self._collections)

    @property
    def collections(self) -> Mapping[str, int]:
        """How many passages each collection holds; one without passages is not there."""
        return MappingProxyType({name: len(shelf) for name, shelf in self._shelves.items()})

    @property
    def memory_bytes(self) -> int:
        """About how much memory the passages and their vectors take."""
        return sum(shelf.memory_bytes for shelf in self._shelves.values())

    def upsert(self, passage: Passage, vector: Vector) -> bool:
        """Add the passage, or replace the one with its key; return False if the index is full.

        Raises:
            ValueError: the vector's dimension is not that of the collection's other vectors, or its
                values are not finite.
        """
        key = passage_key(passage.collection, passage.document, passage.number)
        row = _unit(vector)
        shelf = self._shelves.get(passage.collection)
        if shelf is not None and shelf.dimension != row.size:
            raise ValueError(f"passage {key!r} has {row.size} dimensions, its collection {shelf.dimension}")
        if key not in self._collections and len(self) >= self._max_passages:
            return False
        if shelf is None:
            shelf = self._shelves[passage.collection] = _Shelf(row.size)
        shelf.put(key, passage, row)
        self._collections[key] = passage.collection
        return True

    def delete(self, key: bytes) -> bool:
        """Remove the passage of that key; return whether it was there."""
        collection = self._collections.pop(key, None)
        if collection is None:
            return False
        shelf = self._shelves[collection]
        shelf.remove(key)
        if not len(shelf):
            del self._shelves[collection]
        return True

    def search(self, collection: str, vector: Vector, top_k: int) -> list[Hit]:
        """Return the `top_k` passages nearest to the vector, best first; equal scores go by key.

        An unknown collection has no hits. Raises ValueError for a vector of another dimension.
        """
        shelf = self._shelves.get(collection)
        if shelf is None:
            return []
        query = _unit(vector)
        if query.size != shelf.dimension:
            raise ValueError(f"query has {query.size} dimensions, {collection!r} has {shelf.dimension}")
        return shelf.search(query, top_k)


class _Shelf:
    """One collection; a passage's row in the index is its place in `_keys`."""

    def __init__(self, dimension: int) -> None:
        self.dimension = dimension
        self._index: Any = faiss.IndexFlatIP(dimension)
        self._keys: list[bytes] = []
        self._passages: list[Passage] = []
        self._rows: dict[bytes, int] = {}

    def __len__(self) -> int:
        return len(self._keys)

    @property
    def memory_bytes(self) -> int:
        vectors = self._index.ntotal * self.dimension * 4
        texts = sum(sys.getsizeof(passage.text) for passage in self._passages)
        return int(vectors) + texts + len(self) * _SLOT_OVERHEAD_BYTES

    def put(self, key: bytes, passage: Passage, vector: NDArray[np.float32]) -> None:
        row = self._rows.get(key)
        if row is not None:
            self._passages[row] = passage
            self._vectors()[row] = vector
            return
        self._rows[key] = len(self._keys)
        self._keys.append(key)
        self._passages.append(passage)
        self._index.add(vector[np.newaxis])

    def remove(self, key: bytes) -> None:
        """Move the last passage to the removed one's row: faiss would move every row behind it."""
        row = self._rows.pop(key)
        last = len(self._keys) - 1
        last_key, last_passage = self._keys.pop(), self._passages.pop()
        if row != last:
            self._keys[row], self._passages[row], self._rows[last_key] = last_key, last_passage, row
            vectors = self._vectors()
            vectors[row] = vectors[last]
        self._index.remove_ids(faiss.IDSelectorRange(last, last + 1))

    def search(self, query: NDArray[np.float32], top_k: int) -> list[Hit]:
        wanted = min(top_k, len(self))
        found = self._nearest(query, wanted)
        found.sort(key=lambda item: (-item[0], item[1]))
        return [Hit(self._passages[self._rows[key]], score) for score, key in found[:wanted]]

    def _nearest(self, query: NDArray[np.float32], wanted: int) -> list[tuple[float, bytes]]:
        """Return score and key of the nearest, and of everything that ties with the last wanted one."""
        count = min(wanted + _MARGIN, len(self))
        while True:
            scores, rows = self._index.search(query[np.newaxis], count)
            if count == len(self) or scores[0, count - 1] < scores[0, wanted - 1] - _TIE:
                pairs = zip(scores[0].tolist(), rows[0].tolist(), strict=True)
                return [(round(score, _DECIMALS), self._keys[row]) for score, row in pairs]
            count = min(2 * count, len(self))

    def _vectors(self) -> NDArray[np.float32]:
        """Return the index's own memory, [passages, dimension]; valid until the next addition."""
        size = self._index.ntotal * self.dimension
        flat: NDArray[np.float32] = faiss.rev_swig_ptr(self._index.get_xb(), size)
        return flat.reshape(-1, self.dimension)


def _unit(vector: Vector) -> NDArray[np.float32]:
    """Return the vector with length 1, so that the inner product of two is their cosine."""
    row = vector.astype(np.float32).ravel()
    length = float(np.linalg.norm(row))
    if not np.isfinite(length):
        raise ValueError("vector holds an infinite value")
    return row / length if length else row


def cosine(one: Vector, other: Vector) -> float:
    """Return the cosine of two vectors, whatever else is compared with them; 0 for a zero vector."""
    return round(float(np.dot(_unit(one), _unit(other))), _DECIMALS)
