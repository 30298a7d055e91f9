"""The C++ kernels in `native/`, called through ctypes; `compilation` makes them.

Where a machine cannot have them the layers compute the same numbers with torch.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from ctypes import POINTER, byref, c_double, c_float, c_int32, c_int64, c_void_p
from functools import cache
from itertools import accumulate
from pathlib import Path
from typing import Any, Final, Self

import structlog
import torch
from torch import Tensor
from torch.nn import functional

from stream_infer.engine.compilation import (
    INSTRUCTION_SETS,
    InstructionSet,
    find_instructions,
    find_kernels,
    warn,
)

log = structlog.get_logger(__name__)

_FACTOR: Final = 4


class LinearPointers(ctypes.Structure):
    """Where an 8-bit layer's tensors lie: `Linear` in `native/linear.h`."""

    _fields_ = (
        *((name, c_void_p) for name in ("weight", "total", "scale", "bias", "smoothing")),
        *((name, c_int64) for name in ("inputs", "outputs", "group")),
    )

    @classmethod
    def of(cls, tensors: Sequence[Tensor], smoothing: Tensor | None, sizes: tuple[int, int, int]) -> Self:
        """Point at `weight` (see `pack_weight`), `total`, `scale` and `bias` (see `pack_columns`).

        `smoothing` is by input, and not padded. `sizes` are the numbers of inputs, of outputs, and of inputs
        that are rounded together.
        """
        factors = None if smoothing is None else smoothing.data_ptr()
        return cls(*(tensor.data_ptr() for tensor in tensors), factors, *sizes)


class NormPointers(ctypes.Structure):
    """Where a normalisation's tensors lie."""

    _fields_ = (("weight", c_void_p), ("bias", c_void_p))


class EmbeddingsPointers(ctypes.Structure):
    """Where the tables of embeddings lie, words of float16, others of float32; `types` may be null."""

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


class DecoderLayerPointers(ctypes.Structure):
    """Where a decoder layer's tensors lie; a recurrent one has nothing in `past_attended`."""

    _fields_ = (
        *(
            (name, LinearPointers)
            for name in ("past", "past_attended", "query", "attended", "inner", "outer")
        ),
        *((name, NormPointers) for name in ("past_norm", "attention_norm", "output_norm")),
    )


class DecoderPointers(ctypes.Structure):
    """Where a whole decoder's tensors lie."""

    _fields_ = (
        ("layers", POINTER(DecoderLayerPointers)),
        *((name, c_int64) for name in ("count", "heads", "head_size", "is_recurrent", "activation")),
        ("epsilon", c_double),
        ("scaling", c_float),
    )


class LookbackPointers(ctypes.Structure):
    """Where that lies which the rows of one decoder layer look back at: `Lookback` in `native/decoder.h`."""

    _fields_ = (("past", c_void_p), ("source", c_void_p))


class DecodedRowsPointers(ctypes.Structure):
    """Where the state of rows lies that are decoded: `DecodedRows` in `native/decoder.h`."""

    _fields_ = (
        ("lookbacks", POINTER(LookbackPointers)),
        *((name, c_void_p) for name in ("firsts", "lengths")),
        *((name, c_int64) for name in ("steps", "capacity")),
    )


class OutputRowsPointers(ctypes.Structure):
    """Where an 8-bit layer's tensors lie, and its weights as int8 [out, in]."""

    _fields_ = (("linear", LinearPointers), ("weights", c_void_p))


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
        self._decode_step = library.decode_step
        self._decode_step.argtypes = (
            *(POINTER(DecoderPointers), POINTER(DecodedRowsPointers)),
            *(c_void_p, c_int64),
        )
        self._score_words = library.score_words
        self._score_words.argtypes = (
            *(POINTER(OutputRowsPointers), c_void_p, c_int64),
            *(c_void_p, c_int64, c_void_p),
        )
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

    def decode_step(self, decoder: DecoderPointers, rows: DecodedRowsPointers, hidden: Tensor) -> None:
        """Take one token of each row through a decoder's layers: float32 hidden [rows, size], in place."""
        self._decode_step(byref(decoder), byref(rows), hidden.data_ptr(), hidden.shape[0])

    def score_words(self, outputs: OutputRowsPointers, rows: Tensor, words: Tensor) -> Tensor:
        """Return an 8-bit layer's outputs at the int32 `words` [rows, width] for each of the rows [rows, in].

        A row's words end before the first negative one; its scores are minus infinity from there.
        """
        scores = torch.empty(words.shape)
        self._score_words(
            *(byref(outputs), rows.data_ptr(), rows.shape[0]),
            *(words.data_ptr(), words.shape[1], scores.data_ptr()),
        )
        return scores


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
    """Return [..., out] padded with zeros, as the kernels read what they have for each output."""
    return functional.pad(values, (0, -values.shape[-1] % columns)).contiguous()


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
    path = find_kernels(instructions)
    try:
        return Kernels(path) if path is not None else None
    except OSError as error:
        warn(error)
        return None
