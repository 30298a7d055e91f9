from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stream_infer.engine.shortlist import MAGIC, Shortlist, read_shortlist
from stream_infer.errors import ConfigError

WORDS = 6


def write(offsets: list[int], words: list[int], *, frequent: int = 2, magic: int = MAGIC) -> bytes:
    """Return the bytes of a shortlist file."""
    header = struct.pack("<6Q", magic, 0, frequent, 50, len(offsets), len(words))
    return header + struct.pack(f"<{len(offsets)}Q", *offsets) + struct.pack(f"<{len(words)}I", *words)


GOOD = write([0, 0, 1, 3, 3, 3, 4], [5, 3, 4, 2])


def read(path: Path, data: bytes) -> Shortlist:
    path.write_bytes(data)
    return read_shortlist(path, WORDS)


def test_a_row_may_use_frequent_words_its_own_and_what_they_may_become(tmp_path: Path) -> None:
    shortlist = read(tmp_path / "lex.bin", GOOD)
    allowed = shortlist.allow(
        [np.array([1, 0], np.int32), np.array([2], np.int32), np.array([5, 5], np.int32)]
    )

    assert [[0, 1, 5], [0, 1, 2, 3, 4], [0, 1, 2, 5]] == [np.flatnonzero(row).tolist() for row in allowed]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "not a binary shortlist"),
        (write([0] * 7, [], magic=1), "not a binary shortlist"),
        (GOOD[:-1], "cut short"),
        (write([0] * 6, []), "another size than 6"),
        (write([0, 0, 0, 0, 0, 0, 9], [1]), "outside"),
        (write([0, 1, 0, 0, 0, 0, 0], [1]), "outside"),
        (write([0, 1, 1, 1, 1, 1, 1], [6]), "outside"),
        (write([0] * 7, [], frequent=7), "outside"),
    ],
)
def test_a_damaged_or_foreign_file_is_refused(tmp_path: Path, data: bytes, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read(tmp_path / "lex.bin", data)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"gone\.bin cannot be read"):
        read_shortlist(tmp_path / "gone.bin", WORDS)


@settings(suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])
@given(st.data())
def test_no_bytes_make_the_reader_fail_otherwise(tmp_path: Path, data: st.DataObject) -> None:
    """Whatever is cut off or changed, the file is refused, or every row can be looked up."""
    changed = bytearray(GOOD[: data.draw(st.sampled_from([len(GOOD), len(GOOD) - 1, 60, 10]))])
    for place in data.draw(st.lists(st.integers(0, len(changed) - 1), max_size=3)):
        changed[place] = data.draw(st.integers(0, 255))
    try:
        shortlist = read(tmp_path / "lex.bin", bytes(changed))
    except ConfigError:
        return
    assert (1, WORDS) == shortlist.allow([np.arange(WORDS, dtype=np.int32)]).shape
