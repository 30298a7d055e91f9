from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from stream_infer.retrieval.index import PassageIndex
from stream_infer.retrieval.passages import Passage, passage_key


def passage(number: int, collection: str = "c", text: str = "text") -> Passage:
    return Passage(collection, "d", number, "", text, 0, len(text))


def key(number: int, collection: str = "c") -> bytes:
    return passage_key(collection, "d", number)


def direction(degrees: float) -> NDArray[np.float16]:
    return np.array([np.cos(np.radians(degrees)), np.sin(np.radians(degrees))], np.float16)


def found(index: PassageIndex, vector: NDArray[np.float16], top_k: int = 10) -> list[int]:
    return [hit.passage.number for hit in index.search("c", vector, top_k)]


def test_nearest_come_first_with_their_cosine() -> None:
    index = PassageIndex()
    for number, degrees in enumerate((90, 0, 60)):
        index.upsert(passage(number), direction(degrees) * 3)

    hits = index.search("c", direction(0) * 2, 2)

    assert [1, 2] == [hit.passage.number for hit in hits]
    assert pytest.approx([1.0, 0.5], abs=1e-3) == [hit.score for hit in hits]


def test_replaced_passage_is_found_by_its_new_vector_only() -> None:
    index = PassageIndex()
    index.upsert(passage(0), direction(0))
    index.upsert(passage(1), direction(45))
    index.upsert(passage(0, text="new"), direction(90))

    assert [0, 1] == found(index, direction(90))
    assert "new" == index.search("c", direction(90), 1)[0].passage.text
    assert 2 == len(index)


def test_deleted_passage_is_gone() -> None:
    index = PassageIndex()
    for number in range(3):
        index.upsert(passage(number), direction(30 * number))

    assert index.delete(key(0))
    assert not index.delete(key(0))
    assert [1, 2] == found(index, direction(0))


def test_equal_scores_go_by_key_in_whatever_order_they_came() -> None:
    """Workers that read the topic in another order give the same answer, even at the cut."""
    order = list(range(40))
    for _ in range(3):
        np.random.default_rng(len(order)).shuffle(order)
        index = PassageIndex()
        for number in order:
            index.upsert(replace(passage(0), document=f"{number:02}"), direction(10))

        assert ["00", "01", "02"] == [hit.passage.document for hit in index.search("c", direction(0), 3)]


def test_collections_are_apart() -> None:
    index = PassageIndex()
    index.upsert(passage(0, "c"), direction(0))
    index.upsert(passage(1, "other"), np.ones(3, np.float32))

    assert {"c": 1, "other": 1} == dict(index.collections)
    assert [0] == found(index, direction(0))
    index.delete(key(1, "other"))
    assert {"c": 1} == dict(index.collections)
    assert [] == index.search("other", direction(0), 3)


def test_full_index_refuses_new_passages_but_replaces_old_ones() -> None:
    index = PassageIndex(max_passages=1)

    assert index.upsert(passage(0), direction(0))
    assert not index.upsert(passage(1), direction(0))
    assert not index.upsert(passage(0, "other"), direction(0))
    assert index.upsert(passage(0), direction(90))
    assert {"c": 1} == dict(index.collections)


@pytest.mark.parametrize("bad", [np.ones(3, np.float16), np.array([np.nan, 1], np.float16)])
def test_unfit_vectors_are_refused(bad: NDArray[np.float16]) -> None:
    index = PassageIndex()
    index.upsert(passage(0), direction(0))

    with pytest.raises(ValueError, match=r"dimensions|infinite"):
        index.upsert(passage(1), bad)
    with pytest.raises(ValueError, match=r"dimensions|infinite"):
        index.search("c", bad, 1)
    assert 1 == len(index)


def test_zero_vector_is_kept_and_scores_zero() -> None:
    index = PassageIndex()
    index.upsert(passage(0), np.zeros(2, np.float16))

    assert 0.0 == index.search("c", direction(0), 1)[0].score


def test_memory_grows_with_passages() -> None:
    index = PassageIndex()
    assert 0 == index.memory_bytes
    index.upsert(passage(0), np.ones(384, np.float16))

    assert 384 * 4 < index.memory_bytes < 384 * 4 + 1_000


STEPS = st.lists(st.tuples(st.integers(0, 12), st.none() | st.integers(0, 359)), max_size=60)


@given(STEPS, st.integers(0, 359), st.integers(1, 5))
def test_search_equals_a_plain_scan(steps: list[tuple[int, int | None]], asked: int, top_k: int) -> None:
    """After any additions, replacements and deletions the hits are those of comparing with everything."""
    index = PassageIndex()
    kept: dict[int, NDArray[np.float32]] = {}
    for number, degrees in steps:
        if degrees is None:
            assert (kept.pop(number, None) is not None) == index.delete(key(number))
        else:
            index.upsert(passage(number), direction(degrees))
            kept[number] = direction(degrees).astype(np.float32)

    query = direction(asked).astype(np.float32)
    unit = {n: row / np.linalg.norm(row) @ (query / np.linalg.norm(query)) for n, row in kept.items()}
    best = sorted(unit.values(), reverse=True)[:top_k]

    hits = index.search("c", direction(asked), top_k)
    assert pytest.approx(best, abs=2e-6) == [hit.score for hit in hits]
    assert pytest.approx([unit[hit.passage.number] for hit in hits], abs=2e-6) == [hit.score for hit in hits]
