"""What the C++ kernels compute between 8-bit layers, by the same operations in torch.

A sum of numbers rounds differently in another order, so here all sums are of integers that float32
holds exactly, or of float64 that are rounded to float32 afterwards; all else is one IEEE operation
after the other. So the numbers are the same to the bit with a compiler or without, with any number
of threads, and however texts are put together.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

import torch
from torch import Tensor, nn

from stream_infer.engine.segments import Block

_EXACT_FLOAT: Final = 2**24
VALUE_LEVELS: Final = 1023
POWER_LEVELS: Final = 32767
WEIGHT_LEVELS: Final = 8191
"""So many levels that sums over any text's tokens of weights times values are exact in float32."""

_LEAST: Final = 1e-30
_LOG2_E: Final = 1.44269504
_LOWEST_POWER: Final = -100.0
_POWER: Final = (1.0, 0.693124107, 0.240241042, 0.0559068767, 0.0095827006)
_GELU: Final = (
    *(0.39870839025852456, -0.0659770467727508, 0.009580551387219785),
    *(-0.0010362293792091997, 8.120650473780027e-05, -4.4314285300906295e-06),
    *(1.580136844274647e-07, -3.2836052801716694e-09, 2.999678915995986e-11),
)
_GELU_END: Final = 4.5
_EXPONENT_BIAS: Final = 127
_MANTISSA_BITS: Final = 23


def query_levels(size: int) -> int:
    """Return the most levels with which products of a query and a key of `size` add up exactly."""
    return math.isqrt(_EXACT_FLOAT // size)


def gelu(values: Tensor) -> Tensor:
    """Return the Gaussian error linear unit, in place: x P(X < x), to 6e-5.

    Hendrycks and Gimpel, "Gaussian Error Linear Units", 2016. P - 1/2 is an odd polynomial, fitted to
    the least greatest error up to 4.5, where it reaches 1/2.
    """
    near = values.clamp(-_GELU_END, _GELU_END)
    return values.mul_(_polynomial(_GELU, near.square()).mul_(near).add_(0.5))


def sigmoid(values: Tensor) -> Tensor:
    """Return 1 / (1 + e ** -x), to 3e-6 of itself."""
    powers = power_of_two(values.abs().mul_(-_LOG2_E).clamp_(min=_LOWEST_POWER))
    return torch.where(values < 0, powers, 1.0).div_(powers + 1.0)


def silu(values: Tensor) -> Tensor:
    """Return the sigmoid linear unit, in place: x times its sigmoid."""
    return values.mul_(sigmoid(values))


class Activation(NamedTuple):
    """What stands between two linear layers: its number among the kernels', and the function, in place."""

    code: int
    run: Callable[[Tensor], Tensor]


GELU: Final = Activation(1, gelu)
RELU: Final = Activation(2, torch.relu_)
SILU: Final = Activation(3, silu)


def power_of_two(values: Tensor) -> Tensor:
    """Return 2 ** x for x from -100 to 0, to 3e-6 of itself."""
    whole = values.round()
    exponents = (whole.to(torch.int32) + _EXPONENT_BIAS) << _MANTISSA_BITS
    return _polynomial(_POWER, values - whole).mul_(exponents.view(torch.float32))


def _polynomial(coefficients: Sequence[float], values: Tensor) -> Tensor:
    total = torch.full_like(values, coefficients[-1])
    for coefficient in reversed(coefficients[:-1]):
        total.mul_(values).add_(coefficient)
    return total


def normalize(norm: nn.LayerNorm, values: Tensor) -> Tensor:
    """Return what a layer normalisation makes of each row of `values` [rows, size]."""
    size = values.shape[1]
    apart = values - values.sum(1, keepdim=True, dtype=torch.float64).div_(size).float()
    spread = apart.double().square_().sum(1, keepdim=True).div_(size).add_(norm.eps).sqrt_()
    return apart.mul_(spread.reciprocal_().float()).mul_(norm.weight).add_(norm.bias)


def mix(candidates: Tensor, gates: Tensor, cells: Tensor) -> None:
    """Move the `cells` of a recurrent unit to the candidates, in place, as far as the gates are closed."""
    cells.sub_(candidates).mul_(sigmoid(gates)).add_(candidates)


def attend_once(queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None = None) -> Tensor:
    """Return the contexts of one query a row and head: see `marian_layers.attend_once`.

    A product of float32 is exact in float64.
    """
    scores = torch.matmul(queries.double(), keys.double().mT).float().mul_(queries.shape[-1] ** -0.5)
    if mask is not None:
        scores.add_(mask)
    below = scores.sub_(scores.amax(-1, keepdim=True)).mul_(_LOG2_E).clamp_(min=_LOWEST_POWER)
    powers = power_of_two(below)
    if mask is not None:
        powers.masked_fill_(mask < 0, 0.0)
    totals = powers.sum(-1, keepdim=True, dtype=torch.float64).float()
    return torch.matmul(powers.double(), values.double()).float().mul_(totals.reciprocal_())


def attend(qkv: Tensor, heads: int, blocks: Sequence[Block]) -> Tensor:
    """Return the context [tokens, size] of queries, keys and values [tokens, 3 x size].

    Each head of a token's query and key is rounded to integers at its own scale, and so is a head of
    all values of a text.
    """
    size = qkv.shape[1] // 3
    context = qkv.new_empty(qkv.shape[0], size)
    for block in blocks:
        parts = qkv[block.rows].mul_(block.is_inside[..., None])
        parts = parts.view(*block.rows.shape, 3, heads, size // heads).permute(2, 0, 3, 1, 4)
        attended = _attend_block(parts, block.is_inside)
        context[block.rows[block.is_inside]] = attended.transpose(1, 2)[block.is_inside].flatten(1)
    return context


def _attend_block(parts: Tensor, is_inside: Tensor) -> Tensor:
    query, key, value = parts  # each [texts, heads, length, head size]
    size = query.shape[-1]
    queries, query_steps = _round(query, query_levels(size), (-1,))
    keys, key_steps = _round(key, query_levels(size), (-1,))
    values, value_steps = _round(value, VALUE_LEVELS, (-1, -2))
    scores = (queries @ keys.transpose(-1, -2)).mul_(query_steps.mul_(size**-0.5))
    weights = _weigh(scores.mul_(key_steps.transpose(-1, -2)), is_inside[:, None, None])
    return (weights @ values).mul_(value_steps.div_(WEIGHT_LEVELS))


def _round(values: Tensor, levels: int, axes: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Return whole numbers up to `levels`, and the step between them along `axes`."""
    steps = values.abs().amax(axes, keepdim=True).clamp_(min=_LEAST).div_(levels)
    return values.mul(steps.reciprocal()).round_(), steps


def _weigh(scores: Tensor, is_inside: Tensor) -> Tensor:
    """Return the softmax of each row of scores as whole numbers that add up to about `WEIGHT_LEVELS`."""
    greatest = scores.masked_fill(~is_inside, -torch.inf).amax(-1, keepdim=True)
    below = scores.sub_(greatest).mul_(_LOG2_E).clamp_(_LOWEST_POWER, 0.0)
    powers = power_of_two(below).mul_(POWER_LEVELS).round_().masked_fill_(~is_inside, 0.0)
    total = powers.sum(-1, keepdim=True, dtype=torch.float64).float()
    return powers.mul_(torch.full_like(total, WEIGHT_LEVELS).div_(total)).round_()
