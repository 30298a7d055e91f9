"""Reading Marian's binary model files, without trusting them.

The layout, little-endian throughout: version (u64), number of items (u64); for each item the length
of its name, its type, its rank and the length of its data (four u64); the names, each ending in a
zero byte; the shapes (i32 each); a gap (u64 length, then that many bytes); the data in item order.
Type 0x404 is float32, 0x101 is bytes, and 0x4101 is n int8 values followed by one float32 multiplier
m: the weight is value / m, and the matrix is stored transposed (the tied embeddings are not).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from struct import Struct

import numpy as np
from numpy.typing import NDArray

from stream_infer.errors import ConfigError

VERSION = 1
MAX_ITEMS = 65_536
MAX_RANK = 8
MAX_NAME_BYTES = 1_024
LEAST_MULTIPLIER = 1e-30
"""A weight is an 8-bit value divided by the multiplier; by less than this it would be infinite."""
SETTINGS_ITEM = "special:model.yml"
EMBEDDINGS_ITEM = "Wemb"
ACTIVATION_SUFFIX = "_QuantMultA"
"""Items of this ending hold multipliers for static quantisation of activations, which is not used here."""

_BYTES, _FLOAT32, _INT8 = 0x101, 0x404, 0x4101
_U64 = Struct("<Q")
_HEADER = Struct("<QQ")
_ITEM = Struct("<QQQQ")


@dataclass(frozen=True, slots=True)
class MarianFile:
    """A parsed model file: float32 `weights` by name, matrices as [out, in], and its own settings."""

    weights: Mapping[str, NDArray[np.float32]]
    settings: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class _Item:
    name: str
    kind: int
    shape: tuple[int, ...]
    data_bytes: int


class _Reader:
    """A cursor over the file's bytes that never reads past their end."""

    def __init__(self, data: bytes, path: Path) -> None:
        self._data = data
        self._path = path
        self._offset = 0

    def take(self, size: int) -> bytes:
        end = self._offset + size
        if end > len(self._data):
            raise self.fault(f"it ends after {len(self._data)} bytes, {end} are needed")
        taken = self._data[self._offset : end]
        self._offset = end
        return taken

    def fault(self, what: str) -> ConfigError:
        return ConfigError(f"{self._path} is not a readable Marian model: {what}")


def read_marian_file(path: Path) -> MarianFile:
    """Return the weights and settings of a Marian `.bin` file.

    Raises `ConfigError` for a file that is missing, cut short or of another format.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from error
    reader = _Reader(data, path)
    weights: dict[str, NDArray[np.float32]] = {}
    settings: dict[str, str] = {}
    for item in _read_items(reader):
        content = reader.take(item.data_bytes)
        if item.name == SETTINGS_ITEM:
            settings = _parse_settings(content)
        elif item.kind != _BYTES and not item.name.endswith(ACTIVATION_SUFFIX):
            weights[item.name] = _decode(item, content, reader)
    return MarianFile(weights, settings)


def _read_items(reader: _Reader) -> list[_Item]:
    """Return the descriptions of the items and leave the reader at the first one's data."""
    version, count = _HEADER.unpack(reader.take(_HEADER.size))
    if version != VERSION:
        raise reader.fault(f"version {version} instead of {VERSION}")
    if not 0 < count <= MAX_ITEMS:
        raise reader.fault(f"{count} items, at most {MAX_ITEMS} are accepted")
    headers = list(_ITEM.iter_unpack(reader.take(count * _ITEM.size)))
    for name_bytes, _, rank, _ in headers:
        if not 0 < name_bytes <= MAX_NAME_BYTES or rank > MAX_RANK:
            raise reader.fault("an item's header is out of range")
    names = [_read_name(reader, name_bytes) for name_bytes, _, _, _ in headers]
    shapes = [_read_shape(reader, rank) for _, _, rank, _ in headers]
    reader.take(_U64.unpack(reader.take(_U64.size))[0])
    return [
        _Item(name, kind, shape, data_bytes)
        for name, shape, (_, kind, _, data_bytes) in zip(names, shapes, headers, strict=True)
    ]


def _read_name(reader: _Reader, size: int) -> str:
    raw = reader.take(size)
    if not raw.endswith(b"\0") or not raw.isascii():
        raise reader.fault("an item's name is not text")
    return raw[:-1].decode("ascii")


def _read_shape(reader: _Reader, rank: int) -> tuple[int, ...]:
    shape = tuple(int(size) for size in np.frombuffer(reader.take(4 * rank), dtype="<i4"))
    if any(size <= 0 for size in shape):
        raise reader.fault(f"an item has the shape {shape}")
    return shape


def _decode(item: _Item, content: bytes, reader: _Reader) -> NDArray[np.float32]:
    count = prod(item.shape)
    needed = {_FLOAT32: 4 * count, _INT8: count + 4}.get(item.kind)
    if needed is None:
        raise reader.fault(f"{item.name} has the unknown type {item.kind:#x}")
    if len(content) < needed:
        raise reader.fault(f"{item.name} holds {len(content)} bytes, {needed} are needed")
    if item.kind == _FLOAT32:
        return np.frombuffer(content, dtype="<f4", count=count).reshape(item.shape)
    return _dequantise(item, content, count, reader)


def _dequantise(item: _Item, content: bytes, count: int, reader: _Reader) -> NDArray[np.float32]:
    multiplier = np.frombuffer(content, dtype="<f4", count=1, offset=count)[0]
    if not np.isfinite(multiplier) or multiplier < LEAST_MULTIPLIER:
        raise reader.fault(f"{item.name} has the multiplier {multiplier}")
    values = np.frombuffer(content, dtype=np.int8, count=count).astype(np.float32)
    weights: NDArray[np.float32] = values / np.float32(multiplier)
    return weights.reshape(item.shape if item.name == EMBEDDINGS_ITEM else item.shape[::-1])


def _parse_settings(content: bytes) -> dict[str, str]:
    """Return the top-level `key: value` lines; the values that follow as lists are not needed."""
    lines = content.rstrip(b"\0").decode("utf-8", errors="replace").splitlines()
    pairs = (line.partition(":") for line in lines if line and not line[0].isspace())
    return {key: value.strip().strip('"') for key, colon, value in pairs if colon}
