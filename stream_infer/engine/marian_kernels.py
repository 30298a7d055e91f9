"""8-bit Marian decoders by the C++ kernels: all layers of a step at once, and only the words asked for."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from functools import cached_property
from itertools import accumulate
from typing import Final, cast

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from stream_infer.engine.exact import Activation
from stream_infer.engine.kernels import (
    DecodedRowsPointers,
    DecoderLayerPointers,
    DecoderPointers,
    Kernels,
    LinearPointers,
    LookbackPointers,
    NormPointers,
    OutputRowsPointers,
)
from stream_infer.engine.marian_layers import DecoderLayer, RecurrentUnit
from stream_infer.engine.marian_lookback import FIRST_CAPACITY
from stream_infer.engine.quantization import Int8Linear

_OUTPUT_STEP: Final = 64
"""Outputs are computed one by one where a layer has a multiple of so many inputs."""
_END: Final = -1


class KernelDecoder:
    """A decoder's layers and projection, all 8-bit and on the CPU."""

    def __init__(
        self,
        kernels: Kernels,
        layers: Sequence[DecoderLayer],
        projection: Int8Linear,
        activation: Activation,
    ) -> None:
        self._kernels = kernels
        self.layers = layers
        self._projection = projection
        self._activation = activation

    def begin(self, encoded: Tensor, lengths: Sequence[int]) -> KernelRows:
        """Return rows whose sources are `encoded` [tokens, size], of these lengths."""
        return KernelRows(self, encoded, lengths)

    def step(self, rows: DecodedRowsPointers, hidden: Tensor) -> None:
        """Take one token of each row through the layers: hidden [rows, size], in place."""
        self._kernels.decode_step(self._pointers, rows, hidden)

    @property
    def lists_words(self) -> bool:
        """Whether each row's own words can be scored alone."""
        return self._projection.in_features % _OUTPUT_STEP == 0

    def score_words(self, hidden: Tensor, words: Tensor) -> Tensor:
        """Return the logits of each row's int32 words, [rows, width]: see `Kernels.score_words`."""
        return self._kernels.score_words(self._outputs, hidden, words)

    @cached_property
    def _weight(self) -> Tensor:
        return self._projection.unpacked()

    @cached_property
    def _outputs(self) -> OutputRowsPointers:
        return OutputRowsPointers(self._projection.pointers(), self._weight.data_ptr())

    @cached_property
    def _pointers(self) -> DecoderPointers:
        first = self.layers[0]
        size = first.query.in_features // first.heads
        array = (DecoderLayerPointers * len(self.layers))(*map(_layer_pointers, self.layers))
        return DecoderPointers(
            ctypes.cast(array, ctypes.POINTER(DecoderLayerPointers)),
            *(len(self.layers), first.heads, size, isinstance(first.past, RecurrentUnit)),
            *(self._activation.code, first.norm.eps, size**-0.5),
        )


class KernelRows:
    """Rows on their way through a decoder; sources stay where the encoder's output was."""

    def __init__(self, decoder: KernelDecoder, encoded: Tensor, lengths: Sequence[int]) -> None:
        self._decoder = decoder
        self._sources = [layer.key_value(encoded) for layer in decoder.layers]
        self._firsts = torch.tensor([0, *accumulate(lengths[:-1])])
        self._lengths = torch.tensor(lengths)
        size = encoded.shape[1]
        is_recurrent = isinstance(decoder.layers[0].past, RecurrentUnit)
        # A recurrent unit needs no room for its steps.
        shape = (size,) if is_recurrent else (FIRST_CAPACITY, 2, size)
        self._capacity = 0 if is_recurrent else FIRST_CAPACITY
        self._pasts = [encoded.new_zeros(len(lengths), *shape) for _ in decoder.layers]
        self._steps = 0

    def step(self, hidden: Tensor) -> Tensor:
        """Return the layers' output for the next token of each row, [rows, size]."""
        if self._capacity and self._steps == self._capacity:
            self._capacity *= 2
            self._pasts = [torch.cat([past, torch.empty_like(past)], dim=1) for past in self._pasts]
        lookbacks = (LookbackPointers * len(self._pasts))(
            *(
                LookbackPointers(past.data_ptr(), source.data_ptr())
                for past, source in zip(self._pasts, self._sources, strict=True)
            )
        )
        rows = DecodedRowsPointers(
            *(lookbacks, self._firsts.data_ptr(), self._lengths.data_ptr()),
            *(self._steps, self._capacity),
        )
        # The first step's may be the model's own table of positions.
        hidden = hidden.clone(memory_format=torch.contiguous_format)
        self._decoder.step(rows, hidden)
        self._steps += 1
        return hidden

    def reorder(self, rows: Tensor) -> None:
        """Let each row go on from the past of the given row, which has the same source."""
        self._pasts = [past.index_select(0, rows) for past in self._pasts]

    def keep(self, rows: Tensor) -> None:
        """Go on with these rows only, given as ascending indices; a row may go on several times."""
        self.reorder(rows)
        self._firsts = self._firsts.index_select(0, rows)
        self._lengths = self._lengths.index_select(0, rows)


class ListedWords:
    """Each row's own words, as `allowed` [rows, vocab_size] says, in the order of the vocabulary."""

    def __init__(self, decoder: KernelDecoder, allowed: Tensor) -> None:
        self._decoder = decoder
        lists = [row.nonzero()[:, 0].to(torch.int32) for row in allowed]
        self._words = pad_sequence(lists, batch_first=True, padding_value=_END)

    def score(self, hidden: Tensor) -> Tensor:
        """Return the logits of each row's words, [rows, longest list], -inf behind the last."""
        return self._decoder.score_words(hidden, self._words)

    def name(self, places: Tensor) -> Tensor:
        """Return the words that stand at these places of the scores."""
        words = self._words.gather(1, places.view(len(places), -1))
        return words.view(places.shape).long()

    def keep(self, rows: Tensor) -> None:
        """Go on with these rows only, given as indices."""
        self._words = self._words.index_select(0, rows)


def _layer_pointers(layer: DecoderLayer) -> DecoderLayerPointers:
    past, feed_forward = layer.past, layer.feed_forward
    before = [past.gates] if isinstance(past, RecurrentUnit) else [past.qkv, past.attended]
    linears = [cast("Int8Linear", linear).pointers() for linear in before]
    linears += [LinearPointers()] * (2 - len(before))
    behind = (layer.query, layer.attended, feed_forward.inner, feed_forward.outer)
    linears += [cast("Int8Linear", linear).pointers() for linear in behind]
    norms: tuple[nn.LayerNorm, ...] = (past.norm, layer.norm, feed_forward.norm)
    return DecoderLayerPointers(
        *linears, *(NormPointers(norm.weight.data_ptr(), norm.bias.data_ptr()) for norm in norms)
    )
