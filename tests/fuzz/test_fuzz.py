"""Every target on its seeds and kept inputs, and on some a little off: the guided fuzzer in small."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from pathlib import Path
from struct import pack

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream_infer.engine.shortlist import MAGIC
from stream_infer.errors import BusError, ConfigError, UnreadableError
from stream_infer.text import prepare_text
from tests.fuzz import corpus
from tests.fuzz.__main__ import Report, table
from tests.fuzz.corpus import CORPUS, all_inputs, keep, kept_inputs, minimised
from tests.fuzz.registry import TARGETS
from tests.fuzz.target import Target, attempt, attempt_file

MAX_MEMORY_BYTES = 8 * 1024 * 1024
MAX_KEPT_BYTES = 2_048
BILLION = 1_000_000_000

CLAIMS = {
    "cache_entries": pack("<BBI", 1, 8, BILLION),
    "frames": pack(">I", BILLION) + b"\x81",
    "gguf": b"GGUF" + pack("<IQQ", 3, BILLION, BILLION),
    "marian": pack("<QQ", 1, BILLION),
    "passages": b"\x05c/d/0\xdd" + pack(">I", BILLION),
    "shortlist": pack("<6Q", MAGIC, 0, 1, 2, BILLION, BILLION),
    "values": b"\x01\xdf" + pack(">I", BILLION),
}
"""Inputs of a few bytes that say there are a billion entries to come."""

of_every_target = pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS)


@of_every_target
def test_kept_inputs_break_nothing_and_take_little_memory(target: Target) -> None:
    for data in all_inputs(target):
        assert peak_bytes(target.run, data) < MAX_MEMORY_BYTES


@of_every_target
@settings(max_examples=40)
@given(draw=st.data())
def test_inputs_a_little_off_break_nothing(target: Target, draw: st.DataObject) -> None:
    known = draw.draw(st.sampled_from(all_inputs(target)))
    start = draw.draw(st.integers(0, len(known)))
    end = start + draw.draw(st.integers(0, 8))
    target.run(known[:start] + draw.draw(st.binary(max_size=12)) + known[end:])


@pytest.mark.parametrize("name", CLAIMS)
def test_a_claim_of_a_billion_entries_takes_no_memory(name: str) -> None:
    assert peak_bytes(TARGETS[name].run, CLAIMS[name]) < MAX_MEMORY_BYTES


def test_what_is_kept_belongs_to_a_target_and_is_small() -> None:
    assert {path.name for path in CORPUS.iterdir()} <= TARGETS.keys()
    kept = [path for target in TARGETS.values() for path in kept_inputs(target)]
    assert all(path.stat().st_size <= MAX_KEPT_BYTES for path in kept)


def test_an_error_that_is_not_documented_comes_out() -> None:
    """A reader may refuse with the error of our tree that it documents, and with nothing else."""

    def refuse(error: Exception) -> None:
        raise error

    assert attempt(UnreadableError, refuse, UnreadableError("it is cut short")) is None
    for error in (ValueError("x"), MemoryError(), BusError("another branch of the tree")):
        with pytest.raises(type(error)):
            attempt(UnreadableError, refuse, error)
    with pytest.raises(AssertionError):
        attempt(UnreadableError, refuse, UnreadableError(""))


def test_a_refusal_of_a_file_names_it() -> None:
    def refuse(path: Path) -> None:
        assert b"data" == path.read_bytes()
        raise ConfigError("it is no model")

    with pytest.raises(AssertionError):
        attempt_file(ConfigError, b"data", refuse)


def test_of_inputs_that_reach_the_same_the_shortest_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What broke the target stays under a name of its own, and may break it still."""
    monkeypatch.setattr(corpus, "CORPUS", tmp_path)
    target = Target("text", check_text, (b"a",))
    assert [b"&"] == minimised(target.run, target.seeds, [b"ab", b"a & b", b"&", b"b"])
    assert 1 == keep(target, [b"a & b"], [b"\xff"])
    assert 1 == keep(target, [b"&"], [])
    assert {b"&", b"\xff"} == {path.read_bytes() for path in kept_inputs(target)}


def test_a_table_has_a_row_for_each_run() -> None:
    reports = [
        Report("text", 7, 1_000_000, 19.7, 4, 1, 0, []),
        Report("web", 7, 12, 0.4, 0, 0, 77, ["crash-1"]),
    ]
    assert ["| `text` | 1,000,000 | 20 | 4 | 1 | 0 |", "| `web` | 12 | 0 | 0 | 0 | 1 |"] == table(
        reports
    ).splitlines()[2:]


def check_text(data: bytes) -> None:
    prepare_text(data.decode())


def peak_bytes(check: Callable[[bytes], None], data: bytes) -> int:
    """Return the most memory that was taken at once."""
    tracemalloc.start()
    try:
        check(data)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
