from __future__ import annotations

import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream_infer.retrieval.cache import (
    EmbeddingCache,
    decode_output,
    encode_output,
    model_identity,
    work_key,
)
from stream_infer.schemas import ModelInfo, Output, Work

TEXTS = st.text(max_size=20)
WORKS = st.builds(Work, st.just("m"), TEXTS, st.none() | TEXTS, TEXTS)
VECTORS = st.lists(st.floats(width=16, allow_nan=False), max_size=8)
INFO = ModelInfo("encoder", "package:x", "r1", "int8", "cuda:0", 256, dimension=384)


def vector(size: int = 384, value: float = 1.0) -> Output:
    return Output(vector=np.full(size, value, np.float16))


@given(WORKS, WORKS, TEXTS, TEXTS)
def test_different_work_has_different_keys(one: Work, other: Work, revision: str, second: str) -> None:
    """No way of moving characters between the fields makes two works share a key."""
    assert (work_key(one, revision) == work_key(other, second)) == ((one, revision) == (other, second))


def test_key_of_a_pair_is_not_that_of_the_joined_text() -> None:
    assert work_key(Work("m", "ab"), "r") != work_key(Work("m", "a", pair="b"), "r")
    assert work_key(Work("m", "a", pair=""), "r") != work_key(Work("m", "a"), "r")
    assert len(work_key(Work("m", "a"), "r")) == 16


@pytest.mark.parametrize(
    "change",
    [{"revision": "r2"}, {"precision": "fp32"}, {"device": "cpu"}, {"max_tokens": 128}, {"labels": ("a",)}],
)
def test_identity_changes_with_what_decides_the_output(change: dict[str, object]) -> None:
    assert model_identity(INFO) != model_identity(replace(INFO, **change))  # type: ignore[arg-type]  # varies


def test_identity_is_shared_by_devices_of_one_kind() -> None:
    assert model_identity(INFO) == model_identity(replace(INFO, device="cuda:1", agreement=0.99))


@given(VECTORS, st.sampled_from(["float16", "float32"]), st.none() | TEXTS, st.sets(st.just("truncated")))
def test_decoding_inverts_encoding(
    values: list[float], dtype: str, text: str | None, flags: set[str]
) -> None:
    truncated = "truncated" in flags
    output = Output(vector=np.array(values, dtype), text=text, truncated=truncated)

    decoded = decode_output(encode_output(output))

    assert (text, truncated) == (decoded.text, decoded.truncated)
    assert decoded.vector is not None
    assert dtype == decoded.vector.dtype
    assert values == decoded.vector.tolist()


def test_output_without_vector_decodes_to_none() -> None:
    assert Output(text="olá") == decode_output(encode_output(Output(text="olá")))


@given(st.binary(max_size=40) | st.binary(max_size=30).map(lambda tail: b"\x01" + tail))
def test_foreign_bytes_are_a_value_error(value: bytes) -> None:
    """A damaged record of the shared topic is refused, or is an output; it never does anything else."""
    try:
        decode_output(value)
    except ValueError:
        return


@pytest.mark.parametrize("cut", [0, 3, 10, -1])
def test_cut_off_output_is_refused(cut: int) -> None:
    with pytest.raises(ValueError, match="bytes"):
        decode_output(encode_output(vector())[:cut])


def test_other_version_is_refused() -> None:
    with pytest.raises(ValueError, match="version 9"):
        decode_output(b"\x09" + encode_output(vector())[1:])


def test_least_recently_used_goes_first() -> None:
    cache = EmbeddingCache(max_bytes=2_300)
    for key in (b"a", b"b"):
        cache.put(key, vector())

    cache.get(b"a")
    cache.put(b"c", vector())

    assert cache.get(b"b") is None
    assert cache.get(b"a") is not None
    assert cache.get(b"c") is not None
    assert (3, 1, 1) == (cache.hits, cache.misses, cache.evictions)


ACTS = st.sampled_from(["put", "put_shared", "discard"])


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(1, 600), ACTS), max_size=60))
def test_bound_is_never_exceeded(steps: list[tuple[int, int, str]]) -> None:
    cache = EmbeddingCache(max_bytes=4_000)
    for key, size, act in steps:
        match act:
            case "put":
                cache.put(bytes([key]), vector(size))
            case "put_shared":
                cache.put_shared(bytes([key]), vector(size))
            case _:
                cache.discard(bytes([key]))
        assert 0 <= cache.used_bytes <= 4_000
    for key in range(10):
        cache.discard(bytes([key]))

    assert (0, 0) == (cache.used_bytes, len(cache))


def test_hits_of_entries_that_others_computed_are_told_apart() -> None:
    cache = EmbeddingCache(max_bytes=10_000)
    cache.put(b"own", vector())
    cache.put_shared(b"own", vector())
    cache.put_shared(b"theirs", vector())
    for key in (b"own", b"theirs", b"theirs"):
        assert cache.get(key) is not None
    assert (3, 2) == (cache.hits, cache.shared_hits)


def test_what_is_computed_anew_is_not_of_others_any_more() -> None:
    cache = EmbeddingCache(max_bytes=10_000)
    cache.put_shared(b"a", vector())
    cache.put(b"a", vector())
    assert cache.get(b"a") is not None
    assert (1, 0) == (cache.hits, cache.shared_hits)


def test_bound_of_zero_keeps_nothing() -> None:
    cache = EmbeddingCache(max_bytes=0)
    cache.put(b"a", vector())
    cache.put_shared(b"a", vector())

    assert cache.get(b"a") is None


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["vector", "ascii", "wide", "shared"])
def test_counted_bytes_are_real_bytes(kind: str) -> None:
    """The bound is one of memory: what is counted is within 15 % of what is allocated."""
    batch = np.zeros((2, 384), np.float16)
    text = {"ascii": "x" * 90, "wide": "ж" * 90}.get(kind)
    cache = EmbeddingCache(max_bytes=1 << 30)
    tracemalloc.start()
    for number in range(20_000):
        output = Output(vector=batch.copy()[0]) if text is None else Output(text=f"{text}{number}")
        put = cache.put_shared if kind == "shared" else cache.put
        put(number.to_bytes(16, "big"), output)
    allocated, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert 0.85 * allocated < cache.used_bytes < 1.15 * allocated


def test_cached_row_does_not_keep_its_batch() -> None:
    cache = EmbeddingCache(max_bytes=10_000)
    cache.put(b"a", Output(vector=np.zeros((64, 8), np.float16)[3]))

    output = cache.get(b"a")
    assert output is not None
    assert output.vector is not None
    assert output.vector.base is None
    assert not output.vector.flags.writeable
