"""Reading GGUF files: the header in one pass, tensors when they are asked for. No torch.

Layout: the ggml project's GGUF specification, versions 2 and 3. The header is read here because the
`gguf` package takes ten seconds for a vocabulary of 49,000; it does the dequantising.
"""

from __future__ import annotations

import math
import mmap
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from stream_infer.errors import ConfigError

_MAGIC: Final = b"GGUF"
_VERSIONS: Final = frozenset({2, 3})
_DEFAULT_ALIGNMENT: Final = 32
_MAX_DEPTH: Final = 4
_STRING: Final = 8
_ARRAY: Final = 9
_SCALARS: Final = {
    0: struct.Struct("<B"),
    1: struct.Struct("<b"),
    2: struct.Struct("<H"),
    3: struct.Struct("<h"),
    4: struct.Struct("<I"),
    5: struct.Struct("<i"),
    6: struct.Struct("<f"),
    7: struct.Struct("<?"),
    10: struct.Struct("<Q"),
    11: struct.Struct("<q"),
    12: struct.Struct("<d"),
}
_COUNT: Final = struct.Struct("<Q")
_NUMBER: Final = struct.Struct("<I")


@dataclass(frozen=True, slots=True)
class TensorPlace:
    """Where a tensor lies in the file; `shape` has the outermost dimension first."""

    shape: tuple[int, ...]
    kind: int
    offset: int


@dataclass(frozen=True)
class GgufFile:
    """A GGUF file's metadata by key, and where its tensors are."""

    path: Path
    metadata: Mapping[str, Any]
    tensors: Mapping[str, TensorPlace]

    def get(self, key: str) -> Any:
        """Return a value of the metadata; raise ConfigError if it is missing."""
        if key not in self.metadata:
            raise ConfigError(f"{self.path}: no {key} in the metadata")
        return self.metadata[key]

    def tensor(self, name: str) -> NDArray[np.float32]:
        """Return a tensor at full precision; raise ConfigError if it is missing or damaged."""
        place = self.tensors.get(name)
        if place is None:
            raise ConfigError(f"{self.path}: no tensor {name}")
        try:
            return self._dequantize(place)
        except (ValueError, KeyError, NotImplementedError) as error:
            raise ConfigError(f"{self.path}: tensor {name} cannot be read: {error}") from error

    def _dequantize(self, place: TensorPlace) -> NDArray[np.float32]:
        import gguf  # noqa: PLC0415 - only replicas that load such a model need it

        kind = gguf.GGMLQuantizationType(place.kind)
        block_items, block_bytes = gguf.GGML_QUANT_SIZES[kind]
        size = math.prod(place.shape) // block_items * block_bytes
        data = np.frombuffer(self._bytes[place.offset : place.offset + size], np.uint8)
        if not data.size or data.size != size:
            raise ValueError("the file ends within it")
        rows = data.reshape(*place.shape[:-1], -1)
        values = gguf.quants.dequantize(rows, kind).reshape(place.shape)
        return np.require(values, np.float32, ["C", "W"])

    @cached_property
    def _bytes(self) -> mmap.mmap:
        with self.path.open("rb") as file:
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


def read_gguf(path: Path) -> GgufFile:
    """Return the file's metadata and tensor places.

    Raises:
        ConfigError: it cannot be read, or is no GGUF file of a known version.
    """
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return _read_header(path, data)
    except (OSError, ValueError, TypeError, ArithmeticError, struct.error, KeyError) as error:
        raise ConfigError(f"{path}: not a GGUF file that can be read: {error!r}") from error


def _read_header(path: Path, data: mmap.mmap) -> GgufFile:
    version = _NUMBER.unpack_from(data, len(_MAGIC))[0]
    if data[: len(_MAGIC)] != _MAGIC or version not in _VERSIONS:
        raise ConfigError(f"{path}: not a GGUF file of version 2 or 3")
    cursor = _Cursor(data, len(_MAGIC) + _NUMBER.size)
    tensor_count, value_count = cursor.count(), cursor.count()
    metadata = {cursor.string(): cursor.value(cursor.number()) for _ in range(value_count)}
    places = {cursor.string(): cursor.place() for _ in range(tensor_count)}
    alignment = metadata.get("general.alignment", _DEFAULT_ALIGNMENT)
    start = -(-cursor.position // alignment) * alignment
    tensors = {
        name: TensorPlace(place.shape, place.kind, start + place.offset) for name, place in places.items()
    }
    return GgufFile(path, metadata, tensors)


class _Cursor:
    """Reads a header value by value."""

    def __init__(self, data: mmap.mmap, position: int) -> None:
        self._data = data
        self.position = position

    def count(self) -> int:
        return int(self._scalar(_COUNT))

    def number(self) -> int:
        return int(self._scalar(_NUMBER))

    def string(self) -> str:
        size = self.count()
        start, self.position = self.position, self.position + size
        if self.position > len(self._data):
            raise ValueError("the file ends within a string")
        return self._data[start : self.position].decode("utf-8", "replace")

    def value(self, kind: int, depth: int = 0) -> Any:
        if kind == _STRING:
            return self.string()
        if kind != _ARRAY:
            return self._scalar(_SCALARS[kind])
        if depth == _MAX_DEPTH:
            raise ValueError("arrays are nested too deeply")
        items, size = self.number(), self.count()
        return [self.value(items, depth + 1) for _ in range(size)]

    def place(self) -> TensorPlace:
        inner_first = [self.count() for _ in range(self.number())]
        return TensorPlace(tuple(reversed(inner_first)), self.number(), self.count())

    def _scalar(self, form: struct.Struct) -> Any:
        (value,) = form.unpack_from(self._data, self.position)
        self.position += form.size
        return value
