from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from stream_infer.engine.marian_file import read_marian_file
from stream_infer.errors import ConfigError

Item = tuple[str, int, tuple[int, ...], bytes]

FLOATS = np.arange(6, dtype=np.float32).reshape(2, 3)
LEVELS = np.array([[1, -2, 3], [4, 5, -127]], dtype=np.int8)


def write_items(items: list[Item], *, version: int = 1) -> bytes:
    """Return the bytes of a Marian file."""
    parts = [struct.pack("<QQ", version, len(items))]
    parts += [struct.pack("<QQQQ", len(n) + 1, k, len(s), len(d)) for n, k, s, d in items]
    parts += [name.encode() + b"\0" for name, _, _, _ in items]
    parts += [struct.pack(f"<{len(shape)}i", *shape) for _, _, shape, _ in items]
    return b"".join([*parts, struct.pack("<Q", 5), b"\0" * 5, *(data for _, _, _, data in items)])


def quantised(name: str, levels: NDArray[np.int8], multiplier: float) -> Item:
    return name, 0x4101, levels.shape, levels.tobytes() + struct.pack("<f", multiplier) + b"\0" * 9


GOOD = write_items(
    [
        ("bias", 0x404, FLOATS.shape, FLOATS.tobytes()),
        quantised("W", LEVELS, 2.0),
        quantised("Wemb", LEVELS, 4.0),
        quantised("W_QuantMultA", LEVELS[:1, :1], float("nan")),
        ("special:model.yml", 0x101, (30,), b'dim-emb: 256\ntype: ""\n- x\n  a: b\0'),
    ]
)


def read(path: Path, data: bytes) -> tuple[dict[str, NDArray[np.float32]], dict[str, str]]:
    path.write_bytes(data)
    file = read_marian_file(path)
    return dict(file.weights), dict(file.settings)


def test_weights_and_settings_are_read(tmp_path: Path) -> None:
    """Matrices are stored transposed, the embeddings are not, and activation multipliers are left out."""
    weights, own = read(tmp_path / "model.bin", GOOD)

    assert {"bias", "W", "Wemb"} == set(weights)
    assert np.array_equal(FLOATS, weights["bias"])
    assert np.array_equal(LEVELS.reshape(3, 2) / 2.0, weights["W"])
    assert np.array_equal(LEVELS / 4.0, weights["Wemb"])
    assert {"dim-emb": "256", "type": ""} == own


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "0 bytes, 16 are needed"),
        (b"PK\x03\x04" + b"\0" * 40, "version"),
        (write_items([], version=1), "0 items"),
        (struct.pack("<QQ", 1, 2**60), "items"),
        (GOOD[:-10], "needed"),
        (write_items([("a", 0x404, (-1,), b"")]), "shape"),
        (write_items([("a", 0x404, (2, 2**30), b"\0" * 8)]), "holds 8 bytes"),
        (write_items([("a", 0x999, (1,), b"\0" * 4)]), "unknown type 0x999"),
        (write_items([quantised("W", LEVELS, 0.0)]), "multiplier"),
        (write_items([quantised("W", LEVELS, float("nan"))]), "multiplier"),
    ],
)
def test_a_damaged_or_foreign_file_is_refused(tmp_path: Path, data: bytes, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read(tmp_path / "model.bin", data)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"gone\.bin cannot be read"):
        read_marian_file(tmp_path / "gone.bin")


@settings(suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])
@given(st.data())
def test_no_bytes_make_the_reader_fail_otherwise(tmp_path: Path, data: st.DataObject) -> None:
    """Whatever is cut off or changed, the file is read or refused."""
    changed = bytearray(GOOD[: data.draw(st.integers(0, len(GOOD)))])
    for place in data.draw(st.lists(st.integers(0, max(0, len(changed) - 1)), max_size=4)) if changed else ():
        changed[place] = data.draw(st.integers(0, 255))
    try:
        read(tmp_path / "model.bin", bytes(changed))
    except ConfigError as error:
        assert "model.bin" in str(error)  # noqa: PT017  # most examples are refused, some are read
