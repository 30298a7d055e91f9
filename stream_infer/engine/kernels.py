"""The C++ kernels in `native/`: compiled once, loaded from a cache, and called through ctypes.

They need a processor with AVX-512 VNNI or AVX2 and, once, a C++ compiler. Where either is missing the
layers compute the same numbers with torch. `python -m stream_infer.engine.kernels` compiles them beside
their sources, for images that are to run without a compiler.
"""

from __future__ import annotations

import ctypes
import hashlib
import shutil
import subprocess
import tempfile
import time
from collections.abc import Sequence
from ctypes import POINTER, byref, c_double, c_float, c_int32, c_int64, c_void_p
from functools import cache
from itertools import accumulate
from pathlib import Path
from typing import Any, Final, NamedTuple, Self

import structlog
import torch
from torch import Tensor
from torch.nn import functional

from stream_infer.engine.keeping import cache_directory
from stream_infer.engine.processor import processor_field

log = structlog.get_logger(__name__)

SOURCES: Final = Path(__file__).with_name("native")
_COMPILERS: Final = ("g++", "c++", "clang++")
_FLAGS: Final = (
    *("-std=c++17", "-O3", "-fPIC", "-shared", "-fopenmp"),
    # A product and a sum in one step would round differently from torch.
    "-ffp-contract=off",
)
_FACTOR: Final = 4
_TIMEOUT_S: Final = 120


class InstructionSet(NamedTuple):
    """What the kernels can be compiled for: the compiler's flags, and what the processor must say it has."""

    name: str
    flags: tuple[str, ...]
    needed: frozenset[str]


INSTRUCTION_SETS: Final = (
    InstructionSet(
        "AVX-512 VNNI",
        ("-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mavx512vnni"),
        frozenset({"avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512_vnni"}),
    ),
    InstructionSet("AVX2", ("-mavx2",), frozenset({"avx2"})),
)
"""The faster first."""


class LinearPointers(ctypes.Structure):
    """Where an 8-bit layer's tensors lie: `Linear` in `native/linear.h`."""

    _fields_ = (
        *((name, c_void_p) for name in ("weight", "total", "scale", "bias", "smoothing")),
        *((name, c_int64) for name in ("inputs", "outputs")),
    )

    @classmethod
    def of(cls, tensors: Sequence[Tensor], smoothing: Tensor | None, inputs: int, outputs: int) -> Self:
        """Point at `weight` (see `pack_weight`), `total`, `scale` and `bias` (see `pack_columns`).

        `smoothing` is by input, and not padded.
        """
        factors = None if smoothing is None else smoothing.data_ptr()
        return cls(*(tensor.data_ptr() for tensor in tensors), factors, inputs, outputs)


class NormPointers(ctypes.Structure):
    """Where a normalisation's tensors lie."""

    _fields_ = (("weight", c_void_p), ("bias", c_void_p))


class EmbeddingsPointers(ctypes.Structure):
    """Where the tables of embeddings lie; `types` may be null."""

    _fields_ = (
        *((name, c_void_p) for name in ("words", "positions", "types")),
        ("norm", NormPointers),
        ("epsilon", c_double),
    )


class TokensPointers(ctypes.Structure):
    """Where the int32 ids, positions and types of tokens lie; all are null where embeddings are given."""

    _fields_ = tuple((name, c_void_p) for name in ("ids", "positions", "types"))


class LayerPointers(ctypes.Structure):
    """Where an encoder layer's tensors lie."""

    _fields_ = (
        *((name, LinearPointers) for name in ("qkv", "attended", "inner", "outer")),
        *((name, NormPointers) for name in ("attention_norm", "output_norm")),
    )


class HeadsSettings(ctypes.Structure):
    """How many attention heads there are, and how finely they are rounded."""

    _fields_ = (
        *((name, c_int64) for name in ("count", "size")),
        *(
            (name, c_float)
            for name in ("scaling", "query_levels", "value_levels", "power_levels", "weight_levels")
        ),
    )


class EncoderPointers(ctypes.Structure):
    """Where a whole encoder's tensors lie."""

    _fields_ = (
        ("embeddings", EmbeddingsPointers),
        ("layers", POINTER(LayerPointers)),
        ("count", c_int64),
        ("heads", HeadsSettings),
        ("epsilon", c_double),
    )


class Kernels:
    """The loaded kernels. Tensors are contiguous and on the CPU; threads are torch's."""

    def __init__(self, path: Path) -> None:
        # torch has loaded the OpenMP library that this one asks for by name: they share its threads.
        library: Any = ctypes.CDLL(str(path))
        self._encode = library.encode
        self._encode.argtypes = (
            *(POINTER(EncoderPointers), POINTER(TokensPointers)),
            *(c_void_p, c_void_p, c_int64, c_int32),
        )
        library.panel_columns.restype = c_int32
        self.columns: int = library.panel_columns()
        """Columns of a weight that lie together: see `pack_weight`."""
        self._run_linear = library.run_linear
        self._run_linear.argtypes = (POINTER(LinearPointers), c_void_p, c_int64, c_void_p, c_int32)

    def run_linear(self, linear: LinearPointers, rows: Tensor) -> Tensor:
        """Return an 8-bit layer's outputs, float32 [rows, out], for float32 rows [rows, in]."""
        outputs = torch.empty(rows.shape[0], linear.outputs)
        self._run_linear(
            byref(linear), rows.data_ptr(), rows.shape[0], outputs.data_ptr(), torch.get_num_threads()
        )
        return outputs

    def encode(
        self, encoder: EncoderPointers, hidden: Tensor, lengths: Sequence[int], tokens: TokensPointers | None
    ) -> None:
        """Take texts of these `lengths` through an encoder's layers: float32 hidden [tokens, size], in place.

        With `tokens` their embeddings come first, and what `hidden` holds does not matter.
        """
        starts = (c_int64 * (len(lengths) + 1))(0, *accumulate(lengths))
        self._encode(
            *(byref(encoder), byref(tokens or TokensPointers())),
            *(hidden.data_ptr(), starts, len(lengths), torch.get_num_threads()),
        )


def pack_weight(weight: Tensor, columns: int) -> Tensor:
    """Return int8 [out, in] as the kernels read it: [out / columns, in / 4, columns, 4], zeros behind."""
    outputs, inputs = weight.shape
    padded = functional.pad(weight, (0, -inputs % _FACTOR, 0, -outputs % columns))
    parts = padded.view(-1, columns, padded.shape[1] // _FACTOR, _FACTOR)
    return parts.transpose(1, 2).contiguous()


def unpack_rows(packed: Tensor, rows: Tensor, inputs: int) -> Tensor:
    """Return these rows of the weight [out, in] that was packed."""
    columns = packed.shape[2]
    parts = packed[rows // columns, :, rows % columns]
    return parts.flatten(1)[:, :inputs]


def pack_columns(values: Tensor, columns: int) -> Tensor:
    """Return [out] padded with zeros, as the kernels read what they have for each output."""
    return functional.pad(values, (0, -values.shape[0] % columns)).contiguous()


@cache
def load_kernels() -> Kernels | None:
    """Return the kernels, or None where this machine cannot have them."""
    instructions = find_instructions()
    if instructions is None:
        reason = f"the processor has none of {', '.join(each.name for each in INSTRUCTION_SETS)}"
        log.info("kernels_not_used", reason=reason)
        return None
    return load_kernels_for(instructions)


def load_kernels_for(instructions: InstructionSet) -> Kernels | None:
    """Return the kernels for an instruction set, compiled if they are not yet, or None; the log says why."""
    name = _file_name(instructions)
    places = [directory / name for directory in (SOURCES, cache_directory()) if directory is not None]
    path = next((place for place in places if place.is_file()), None)
    path = path or compile_kernels(instructions, places[-1])
    try:
        return Kernels(path) if path is not None else None
    except OSError as error:
        _warn(error)
        return None


def find_instructions() -> InstructionSet | None:
    """Return the best that this processor has of what the kernels can be compiled for."""
    has = frozenset(processor_field("flags").split())
    return next((each for each in INSTRUCTION_SETS if each.needed <= has), None)


def compile_kernels(instructions: InstructionSet, path: Path) -> Path | None:
    """Compile the kernels to `path` and return it, or None, which the log explains."""
    compiler = find_compiler()
    if compiler is None:
        _warn(FileNotFoundError("no C++ compiler"))
        return None
    started = time.perf_counter()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent) as directory:
            made = Path(directory) / path.name
            _run_compiler(compiler, instructions, made)
            made.replace(path)
    except (OSError, subprocess.SubprocessError) as error:
        _warn(error)
        return None
    took_ms = round((time.perf_counter() - started) * 1000)
    log.info("kernels_compiled", path=str(path), instructions=instructions.name, took_ms=took_ms)
    return path


def find_compiler() -> str | None:
    """Return the C++ compiler on the path, GNU's before others."""
    return next((found for name in _COMPILERS if (found := shutil.which(name))), None)


def _run_compiler(compiler: str, instructions: InstructionSet, path: Path) -> None:
    command = [compiler, *_FLAGS, *instructions.flags, str(SOURCES / "kernels.cpp"), "-o", str(path)]
    subprocess.run(command, check=True, capture_output=True, timeout=_TIMEOUT_S)  # noqa: S603 - our own words


def _file_name(instructions: InstructionSet) -> str:
    """Return a name that tells these sources and flags from others."""
    digest = hashlib.sha256(" ".join((*_FLAGS, *instructions.flags)).encode())
    for path in sorted([*SOURCES.glob("*.cpp"), *SOURCES.glob("*.h")]):
        digest.update(path.read_bytes())
    return f"kernels-{digest.hexdigest()[:16]}.so"


def _warn(error: Exception) -> None:
    reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
    log.warning("kernels_not_usable", reason=reason, effect="8-bit layers are slower")


def main() -> None:
    """Compile the kernels beside their sources, for every processor that an image may meet."""
    for instructions in INSTRUCTION_SETS:
        compile_kernels(instructions, SOURCES / _file_name(instructions))


if __name__ == "__main__":
    main()
