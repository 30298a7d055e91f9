"""Model files: those that are read here, in Python, and not by a library's parser."""

from __future__ import annotations

import struct
from pathlib import Path

import gguf
import numpy as np

from stream_infer.engine.gguf_file import read_gguf
from stream_infer.engine.marian_file import read_marian_file
from stream_infer.engine.shortlist import MAGIC, read_shortlist
from stream_infer.errors import ConfigError
from tests.fuzz.target import Target, attempt, attempt_file, memory_file

_WORDS = 3


def check_marian(data: bytes) -> None:
    """A file is weights of float32 that it has room for, or refused by name."""
    found = attempt_file(ConfigError, data, read_marian_file)
    if found is None:
        return
    for weights in found.weights.values():
        assert np.float32 == weights.dtype
        # An 8-bit weight takes a byte of the file and four of memory.
        assert weights.nbytes <= 4 * len(data)


def check_gguf(data: bytes) -> None:
    """A file's tensors are where it says and of the shape it says, or it is refused by name."""
    found = attempt_file(ConfigError, data, read_gguf)
    if found is None:
        return
    for name, place in list(found.tensors.items())[:8]:
        assert min((place.offset, *place.shape)) >= 0
        tensor = attempt(ConfigError, found.tensor, name)
        assert tensor is None or tensor.shape == place.shape


def check_shortlist(data: bytes) -> None:
    """A file points nowhere but into itself and the vocabulary, or is refused by name."""
    found = attempt_file(ConfigError, data, lambda path: read_shortlist(path, _WORDS))
    if found is not None:
        allowed = found.allow([np.array([0, 2], np.int32), np.array([1], np.int32)])
        assert (2, _WORDS) == allowed.shape
        assert allowed[0, 0]


def _marian() -> bytes:
    """Return a file of a matrix in 8 bits, a vector, and settings."""
    matrix = bytes(range(6)) + struct.pack("<f", 2.0)
    items = ((b"W\0", 0x4101, (2, 3), matrix), (b"b\0", 0x404, (1,), struct.pack("<f", 1.0)))
    settings = (b"special:model.yml\0", 0x101, (9,), b"dim: 256\n")
    parts = [struct.pack("<QQ", 1, 3)]
    everything = (*items, settings)
    parts += [struct.pack("<QQQQ", len(n), k, len(s), len(d)) for n, k, s, d in everything]
    parts += [name for name, _, _, _ in everything]
    parts += [struct.pack(f"<{len(shape)}i", *shape) for _, _, shape, _ in everything]
    return b"".join([*parts, struct.pack("<Q", 3), bytes(3), *(data for _, _, _, data in everything)])


def _gguf(kind: gguf.GGMLQuantizationType | None) -> bytes:
    """Return a file with a key of each kind and one tensor."""
    path = memory_file(b"")
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_uint32("llama.block_count", 2)
    writer.add_array("tokens", ["a", "b"])
    writer.add_float32("eps", 0.5)
    values = np.arange(64, dtype=np.float32).reshape(2, 32)
    writer.add_tensor("w", values if kind is None else gguf.quants.quantize(values, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return Path(path).read_bytes()


def _shortlist() -> bytes:
    header = struct.pack("<6Q", MAGIC, 0, 1, 2, _WORDS + 1, 3)
    return header + struct.pack("<4Q", 0, 1, 1, 3) + struct.pack("<3I", 0, 2, 1)


_TYPES = gguf.GGMLQuantizationType
TARGETS = (
    Target("marian", check_marian, (_marian(),)),
    Target("gguf", check_gguf, (_gguf(None), _gguf(_TYPES.Q8_0)), max_bytes=1_024),
    Target("shortlist", check_shortlist, (_shortlist(),), max_bytes=160),
)
