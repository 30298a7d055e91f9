"""Outputs kept by the work that made them, so that equal work is computed once.

The memory tier is `EmbeddingCache`; the shared tier is the compacted topic `embeddings`, whose
records are a work key and an encoded output.
"""

from __future__ import annotations

import struct
import sys
from collections import OrderedDict
from functools import lru_cache
from hashlib import blake2b
from typing import Any, Final

import numpy as np

from stream_infer.errors import UnreadableError
from stream_infer.schemas import ModelInfo, Output, Work
from stream_infer.text import PREPARATION_VERSION

KEY_BYTES: Final = 16
OUTPUT_VERSION: Final = 1

ENTRY_OVERHEAD_BYTES: Final = 220
"""What an entry costs beside its data: key, cost, output object and the table's own slots (measured)."""
VECTOR_OVERHEAD_BYTES: Final = 112
SHARED_OVERHEAD_BYTES: Final = 60
"""What it costs to remember that an entry came from other workers (measured)."""

_HEADER: Final = struct.Struct("<BBI")
_TRUNCATED: Final = 1
_HAS_TEXT: Final = 2
_HALF: Final = 4
_SINGLE: Final = 8
_KNOWN_FLAGS: Final = _TRUNCATED | _HAS_TEXT | _HALF | _SINGLE
_DTYPES: Final[dict[int, np.dtype[Any]]] = {_HALF: np.dtype("<f2"), _SINGLE: np.dtype("<f4")}


def model_identity(info: ModelInfo) -> str:
    """Return one string that differs whenever two models may give different outputs for equal work.

    It is what to pass as `revision` to `work_key`, and what the vectors on topic `passages` carry.
    """
    labels = ",".join(info.labels)
    device = info.device.partition(":")[0]
    shape = f"{info.max_tokens}/{info.dimension}/{labels}"
    return f"{info.name}={info.source}@{info.revision}/{info.precision}/{device}/{shape}"


def work_key(work: Work, revision: str) -> bytes:
    """Return the 16-byte key under which the output of `work` is cached.

    A prefix of fixed length stands for the revision and the option, and a pair is framed by its
    length, so no two different works share a frame. `work.model` takes part only through
    `revision`, which must name it (see `model_identity`).
    """
    pair = work.pair
    prefix = _key_prefix(revision, work.option)
    frame = prefix + work.text if pair is None else f"{prefix[:-1]}{len(pair)}:{pair}{work.text}"
    return blake2b(frame.encode(), digest_size=KEY_BYTES).digest()


@lru_cache(maxsize=1024)
def _key_prefix(revision: str, option: str) -> str:
    """Return a digest of everything but the texts, ending in the mark of work without a pair."""
    frame = f"{PREPARATION_VERSION}:{len(revision)}:{revision}{option}"
    return blake2b(frame.encode(), digest_size=KEY_BYTES).hexdigest() + "-"


def encode_output(output: Output) -> bytes:
    """Return the output as a value of topic `embeddings`.

    Little endian: version, flags, number of vector items, the vector, then the text in UTF-8.
    """
    flags = _TRUNCATED if output.truncated else 0
    vector = output.vector
    count, data = 0, b""
    if vector is not None:
        half = vector.dtype == np.float16
        flags |= _HALF if half else _SINGLE
        count, data = vector.size, vector.astype("<f2" if half else "<f4", copy=False).tobytes()
    text = b""
    if output.text is not None:
        flags |= _HAS_TEXT
        text = output.text.encode()
    return _HEADER.pack(OUTPUT_VERSION, flags, count) + data + text


def decode_output(value: bytes) -> Output:
    """Return the output that `encode_output` wrote; raise UnreadableError for any other bytes."""
    if len(value) < _HEADER.size:
        raise UnreadableError(f"cached output of {len(value)} bytes is shorter than its header")
    version, flags, count = _HEADER.unpack_from(value)
    if version != OUTPUT_VERSION:
        raise UnreadableError(f"cached output has version {version}, not {OUTPUT_VERSION}")
    if flags & ~_KNOWN_FLAGS or (flags & _HALF and flags & _SINGLE):
        raise UnreadableError(f"cached output has unknown flags {flags:#x}")
    dtype = _DTYPES.get(flags & (_HALF | _SINGLE))
    end = _HEADER.size + count * (dtype.itemsize if dtype else 0)
    if (dtype is None and count) or end > len(value) or (not flags & _HAS_TEXT and end < len(value)):
        raise UnreadableError(f"cached output of {len(value)} bytes does not fit its {count} vector items")
    vector = None if dtype is None else np.frombuffer(value, dtype, count, _HEADER.size)
    text = _decode_text(value[end:]) if flags & _HAS_TEXT else None
    return Output(vector=vector, text=text, truncated=bool(flags & _TRUNCATED))


def _decode_text(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise UnreadableError("cached output holds a text that is not valid UTF-8") from error


def _owned(output: Output) -> Output:
    """Return the output with a vector of its own: a row of a batch would keep the whole batch alive."""
    vector = output.vector
    if vector is None or vector.base is None:
        return output
    copy = vector.copy()
    copy.setflags(write=False)
    return Output(vector=copy, text=output.text, truncated=output.truncated)


def _cost_bytes(output: Output) -> int:
    """Return the memory an entry takes."""
    cost = ENTRY_OVERHEAD_BYTES
    if output.vector is not None:
        cost += VECTOR_OVERHEAD_BYTES + output.vector.nbytes
    if output.text is not None:
        cost += sys.getsizeof(output.text)
    return cost


class EmbeddingCache:
    """Outputs by work key, least recently used out first, bounded in bytes of real memory.

    A bound of 0 keeps nothing. Counters only grow.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._entries: OrderedDict[bytes, Output] = OrderedDict()
        self._used_bytes = 0
        self._shared: set[bytes] = set()
        self.hits = 0
        self.shared_hits = 0
        """Those hits whose entry another worker computed."""
        self.misses = 0
        self.evictions = 0

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def used_bytes(self) -> int:
        """Return the memory the entries take."""
        return self._used_bytes

    def get(self, key: bytes) -> Output | None:
        """Return the cached output and mark it as just used; None counts as a miss."""
        output = self._entries.get(key)
        if output is None:
            self.misses += 1
            return None
        self.hits += 1
        self.shared_hits += key in self._shared
        self._entries.move_to_end(key)
        return output

    def put(self, key: bytes, output: Output) -> None:
        """Keep the output, letting the longest unused go; one above the whole bound is not kept."""
        self.discard(key)
        self._keep(key, output, _cost_bytes(output))

    def put_shared(self, key: bytes, output: Output) -> None:
        """Keep the output that the shared tier holds, unless it is kept already: what is there is equal."""
        if key in self._entries:
            return
        self._keep(key, output, _cost_bytes(output) + SHARED_OVERHEAD_BYTES)
        if key in self._entries:
            self._shared.add(key)

    def _keep(self, key: bytes, output: Output, cost: int) -> None:
        if cost > self._max_bytes:
            return
        while self._used_bytes + cost > self._max_bytes:
            self.discard(next(iter(self._entries)))
            self.evictions += 1
        self._entries[key] = _owned(output)
        self._used_bytes += cost

    def discard(self, key: bytes) -> None:
        """Forget the key, if it is there (a null value on topic `embeddings`)."""
        output = self._entries.pop(key, None)
        if output is not None:
            self._used_bytes -= _cost_bytes(output)
            if key in self._shared:
                self._shared.remove(key)
                self._used_bytes -= SHARED_OVERHEAD_BYTES
