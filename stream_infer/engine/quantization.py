"""8-bit linear layers over bitsandbytes' weights: 8-bit weights by row, 8-bit activations by token.

LLM.int8 without its outlier path (Dettmers et al., "LLM.int8(): 8-bit Matrix Multiplication for
Transformers at Scale", 2022, with threshold 0): the outlier path couples the rows of a batch. Unlike
there, a row's 256 levels reach from its least number to its greatest: most rows are lopsided, and
half of the levels would lie idle. Sums of products are exact integers, so a row's result does not
depend on the rows beside it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from copy import copy
from functools import cache
from typing import Any, Final, Self

import torch
from torch import Tensor, nn
from torch.nn import functional

from stream_infer.engine.kernels import (
    LinearPointers,
    load_kernels,
    pack_columns,
    pack_weight,
    unpack_rows,
)
from stream_infer.engine.smoothing import smoothing_factors
from stream_infer.engine.streams import one_core

SKIPPED: Final = ("lm_head", "classifier", "qa_outputs", "score")
"""Heads, by a part of their path: small, and the most sensitive to rounding."""

_WEIGHT_LEVELS: Final = 127
_LEVELS: Final = 255
_MIDDLE: Final = 128
_EXACT_FLOAT: Final = 2**24
"""float32 holds every integer up to this one."""
_EXACT_WIDTH: Final = _EXACT_FLOAT // (_LEVELS * _WEIGHT_LEVELS)
"""Any sum of this many products of a level and a weight is exact in float32."""
_LEAST_STEP: Final = 1e-32
GROUP: Final = 256
"""Inputs that are rounded together where a layer's are rounded in groups."""
_FLOAT_COPY_LIMIT: Final = 64_000_000
"""Modules with more weights than this stay 8-bit in memory also where products run in float32."""


class Int8Linear(nn.Module):
    """A linear layer with weights of int8 [out, in] and a scale for each row, on a CPU.

    Each input row is rounded to 256 levels between its own least and greatest number, 0 being one of
    them; before that its columns are multiplied by `smoothing` [in], if there is any. With a scale for
    each of several groups of columns, [groups, out], a row is rounded group by group too, so that a wide
    number costs only its group. The kernels do it all in one call. Without them the integer products run
    through `torch._int_mm` where that is fast; elsewhere as float32 products of integers. Sums are the
    same.
    """

    weight: Tensor
    total: Tensor
    scale: Tensor
    bias: Tensor

    def __init__(
        self,
        weight: Tensor,
        scale: Tensor,
        bias: Tensor | None,
        smoothing: Tensor | None = None,
        *,
        keep_float: bool = True,
    ) -> None:
        super().__init__()
        self.out_features, self.in_features = weight.shape
        self._kernels = load_kernels()
        zeros = torch.zeros(self.out_features)
        scale = scale.float().reshape(-1, self.out_features)
        self._groups = len(scale)
        grouped = weight.view(self.out_features, self._groups, -1)
        tensors = {
            "total": grouped.sum(-1, dtype=torch.int32).t().contiguous(),
            "scale": scale,
            "bias": zeros if bias is None else bias.detach().float(),
        }
        if self._kernels is not None:
            columns = self._kernels.columns
            tensors = {name: pack_columns(tensor, columns) for name, tensor in tensors.items()}
            tensors["weight"] = pack_weight(weight, columns)
        else:
            self._is_integer = integer_products_are_fast()
            self._width = _exact_width(weight)
            stored = weight if self._is_integer or not keep_float else weight.float()
            tensors["weight"] = stored.contiguous()
        for name, tensor in tensors.items():
            self.register_buffer(name, tensor, persistent=False)
        self.smoothing = None if smoothing is None else smoothing.contiguous()

    @classmethod
    def of(
        cls,
        *layers: nn.Linear,
        widths: Tensor | None = None,
        keep_float: bool = True,
        in_groups: bool = False,
    ) -> Self:
        """Quantise layers that read the same inputs: the outputs of one come after those of the other.

        With the `widths` of the inputs' columns [in] they are smoothed; `in_groups` of `GROUP` columns,
        where these come out even, weights and inputs are rounded by scales of each.
        """
        whole = torch.cat([layer.weight.detach() for layer in layers])
        factors = None if widths is None else smoothing_factors(widths, whole)
        groups = whole.shape[1] // GROUP if in_groups and whole.shape[1] % GROUP == 0 else 1
        weight, scale = quantize_rows(whole if factors is None else whole * factors, groups)
        biases: list[Tensor] = [
            torch.zeros(layer.out_features) if layer.bias is None else layer.bias for layer in layers
        ]
        smoothing = None if factors is None else factors.reciprocal()
        return cls(weight, scale, torch.cat(biases), smoothing, keep_float=keep_float)

    def select(self, outputs: Tensor) -> Self:
        """Return a layer that computes only these outputs."""
        selected = copy(self)
        selected.out_features = len(outputs)
        buffers = {name: getattr(self, name)[..., outputs] for name in ("total", "scale", "bias")}
        if self._kernels is None:
            buffers["weight"] = self.weight[outputs]
        else:
            columns = self._kernels.columns
            buffers = {name: pack_columns(tensor, columns) for name, tensor in buffers.items()}
            buffers["weight"] = pack_weight(unpack_rows(self.weight, outputs, self.in_features), columns)
        selected.__dict__["_buffers"] = buffers
        return selected

    def unpacked(self) -> Tensor:
        """Return the weights that the kernels keep packed, as int8 [out, in]."""
        return unpack_rows(self.weight, torch.arange(self.out_features), self.in_features).contiguous()

    def pointers(self) -> LinearPointers:
        """Return where the kernels find the layer's tensors."""
        tensors = (self.weight, self.total, self.scale, self.bias)
        sizes = (self.in_features, self.out_features, self.in_features // self._groups)
        return LinearPointers.of(tensors, self.smoothing, sizes)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return inputs [..., in] times the weights, plus the bias: [..., out], of the inputs' type."""
        rows = inputs.reshape(-1, self.in_features)
        rows = rows if rows.dtype is torch.float32 else rows.float()
        if self._kernels is None:
            outputs = self._run_torch(rows)
        else:
            outputs = self._kernels.run_linear(self.pointers(), rows.contiguous())
        return outputs.view(*inputs.shape[:-1], self.out_features).to(inputs.dtype)

    def _run_torch(self, rows: Tensor) -> Tensor:
        rows = rows if self.smoothing is None else rows * self.smoothing
        outputs = self.bias
        columns = self.in_features // self._groups
        parts = zip(torch.split(rows, columns, -1), torch.split(self.weight, columns, -1), strict=True)
        for group, (inputs, weight) in enumerate(parts):
            levels, lowest, steps = _round(inputs)
            sums = self._sums(levels, lowest, weight, self.total[group])
            # One operation at a time: fused ones would round differently from processor to processor.
            outputs = sums.mul_(steps).mul_(self.scale[group]).add_(outputs)
        return outputs

    def _sums(self, levels: Tensor, lowest: Tensor, weight: Tensor, total: Tensor) -> Tensor:
        if self._is_integer:
            # Eight bits hold the levels counted from the middle one; what that takes away comes back here.
            middle = lowest.add_(_MIDDLE)
            sums = _multiply_integers(levels.sub_(middle).to(torch.int8), weight.t())
            return sums.addcmul_(middle.to(torch.int32), total).float()
        weight = weight if weight.dtype is torch.float32 else weight.float()
        sums = functional.linear(levels[:, : self._width], weight[:, : self._width])
        for start in range(self._width, weight.shape[1], self._width):
            part = slice(start, start + self._width)
            sums += functional.linear(levels[:, part], weight[:, part])
        return sums


def quantize(module: nn.Module, skip: Sequence[str] = SKIPPED) -> None:
    """Replace the linear layers of `module`, in place, by 8-bit ones on the same device.

    A layer stays as it is when a part of its path is one of `skip`. Weights are quantised by
    bitsandbytes; on CUDA its layers also run them.
    """
    layers = list(_linear_layers(module, frozenset(skip)))
    keep_float = fit_as_float([layer for _, _, layer in layers])
    for parent, name, layer in layers:
        is_cuda = layer.weight.device.type == "cuda"
        setattr(parent, name, _cuda_layer(layer) if is_cuda else Int8Linear.of(layer, keep_float=keep_float))
    for parameter in module.parameters():
        # Weights are read from a mapped file, all of which stays in memory while one tensor lies in it.
        if parameter.device.type == "cpu":
            parameter.data = parameter.data.clone()


def fit_as_float(layers: Iterable[nn.Linear]) -> bool:
    """Say whether layers are few enough to hold their 8-bit weights as float32 where that is faster."""
    return sum(layer.weight.numel() for layer in layers) <= _FLOAT_COPY_LIMIT


def quantize_rows(weight: Tensor, groups: int = 1) -> tuple[Tensor, Tensor]:
    """Return bitsandbytes' 8-bit weights [out, in] and the scales of each row's groups [groups, out]."""
    parts = weight.detach().half().reshape(weight.shape[0] * groups, -1)
    levels, largest, _ = _bitsandbytes().functional.int8_vectorwise_quant(parts)
    scale = largest.float().view(-1, groups) / _WEIGHT_LEVELS
    return levels.view(weight.shape), scale.t().contiguous()


@cache
def integer_products_are_fast() -> bool:
    """Say whether `torch._int_mm` is exact and faster than float32 products on this processor.

    It is with AVX-512 VNNI or the like; without, it falls back to a scalar loop.
    """
    levels = torch.full((64, 256), _WEIGHT_LEVELS, dtype=torch.int8)
    reals = levels.float()
    if not bool((_multiply_integers(levels, levels.t()) == 256 * _WEIGHT_LEVELS**2).all()):
        return False
    return _seconds(lambda: _multiply_integers(levels, levels.t())) < _seconds(lambda: reals @ reals.t())


def _multiply_integers(left: Tensor, right: Tensor) -> Tensor:
    return torch._int_mm(left, right)  # noqa: SLF001 - the only 8-bit product that torch offers on a CPU


def _seconds(run: Callable[[], object], repeats: int = 30) -> float:
    """Return the least time of several runs on one core: two would wait for each other on a busy machine."""
    best = float("inf")
    with one_core():
        for _ in range(repeats):
            started = time.perf_counter()
            run()
            best = min(best, time.perf_counter() - started)
    return best


def _round(rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return each row's levels, as whole numbers, the lowest of them, and the step between them."""
    least, greatest = rows.amin(-1, keepdim=True).clamp_(max=0), rows.amax(-1, keepdim=True).clamp_(min=0)
    steps = greatest.sub_(least).div_(_LEVELS).clamp_(min=_LEAST_STEP)
    per_step = steps.reciprocal()
    lowest = least.mul_(per_step).round_()
    return torch.minimum(rows.mul(per_step).round_(), lowest + _LEVELS), lowest, steps


def _linear_layers(module: nn.Module, skip: frozenset[str]) -> Iterator[tuple[nn.Module, str, nn.Linear]]:
    for path, parent in module.named_modules():
        for name, child in parent.named_children():
            if type(child) is nn.Linear and skip.isdisjoint([*path.split("."), name]):
                yield parent, name, child


def _cuda_layer(layer: nn.Linear) -> nn.Module:
    layers = _bitsandbytes().nn
    quantised = layers.Linear8bitLt(
        layer.in_features, layer.out_features, layer.bias is not None, has_fp16_weights=False, threshold=0.0
    )
    # Moving an Int8Params from the CPU to a device is what quantises it.
    weight = layer.weight.detach().half().cpu()
    quantised.weight = layers.Int8Params(weight, requires_grad=False, has_fp16_weights=False)
    if layer.bias is not None:
        quantised.bias = nn.Parameter(layer.bias.detach().cpu(), requires_grad=False)
    moved: nn.Module = quantised.to(layer.weight.device).eval()
    return moved


def _exact_width(weight: Tensor) -> int:
    largest_sum = int(weight.abs().sum(1, dtype=torch.int64).max()) * _LEVELS
    return weight.shape[1] if largest_sum <= _EXACT_FLOAT else _EXACT_WIDTH


@cache
def _bitsandbytes() -> Any:
    # It decorates 4-bit functions, unused here, with torch.compile, which would spend seconds on
    # loading a compiler.
    original = torch.compile
    torch.compile = _without_compiling  # type: ignore[assignment] # stands in for every overload
    try:
        import bitsandbytes  # noqa: PLC0415 - loaded while nothing is compiled
    finally:
        torch.compile = original
    return bitsandbytes


def _without_compiling(function: Any = None, **_: Any) -> Any:
    return function if function is not None else _without_compiling
