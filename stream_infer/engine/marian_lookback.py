"""What a Marian decoder looks back at, in torch: each row's own past, and the encoder's output."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, NamedTuple, Protocol

import torch
from torch import Tensor, nn

FIRST_CAPACITY: Final = 32
"""How many steps a row's past has room for at first."""


class Attend(Protocol):
    """Attention of one query a row and head: see `attend_once`."""

    def __call__(self, queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return the contexts."""
        ...


class Normalize(Protocol):
    """Layer normalisation."""

    def __call__(self, norm: nn.LayerNorm, values: Tensor) -> Tensor:
        """Return what `norm` makes of each row of `values` [rows, size]."""
        ...


class Mix(Protocol):
    """A recurrent unit's step."""

    def __call__(self, candidates: Tensor, gates: Tensor, cells: Tensor) -> None:
        """Move the cells to the candidates, in place, as far as the gates are closed; all [rows, size]."""
        ...


class Arithmetic(NamedTuple):
    """How a decoder's layers compute what lies between their linear layers."""

    normalize: Normalize
    mix: Mix
    attend: Attend


@dataclass(slots=True)
class Cell:
    """What a recurrent unit remembers of each row, [rows, hidden_size]."""

    values: Tensor

    def keep(self, rows: Tensor) -> None:
        """Go on with these rows only, given as indices."""
        self.values = self.values.index_select(0, rows)


@dataclass(slots=True)
class Past:
    """The keys and values of each row's past, [2, rows, heads, capacity, head_size]; `steps` are in use."""

    keys_values: Tensor
    steps: int = 0

    def add(self, keys_values: Tensor) -> tuple[Tensor, Tensor]:
        """Add one step, [rows, 2, heads, head_size]; return all keys and all values so far.

        The room doubles when it is full, so a step seldom copies anything but itself.
        """
        if self.steps == self.keys_values.shape[3]:
            self.keys_values = torch.cat([self.keys_values, torch.empty_like(self.keys_values)], dim=3)
        self.keys_values[:, :, :, self.steps] = keys_values.transpose(0, 1)
        self.steps += 1
        keys, values = self.keys_values[:, :, :, : self.steps]
        return keys, values

    def keep(self, rows: Tensor) -> None:
        """Go on with these rows only, given as indices."""
        self.keys_values = self.keys_values.index_select(1, rows)


@dataclass(slots=True)
class Memory:
    """What rows of like length attend to while they are decoded.

    `keys` and `values` hold one [rows, heads, length, head_size] tensor a layer; `mask` is 0 for
    tokens and minus infinity for padding, [rows, heads, 1, length].
    """

    first: int
    keys: list[Tensor]
    values: list[Tensor]
    mask: Tensor

    @property
    def rows(self) -> int:
        """Number of rows, which follow each other from `first` on."""
        return self.mask.shape[0]

    def attend(self, attend: Attend, queries: Tensor, layer: int) -> Tensor:
        """Return the context of this memory's rows of `queries` [all rows, heads, 1, head_size]."""
        own = queries[self.first : self.first + self.rows]
        return attend(own, self.keys[layer], self.values[layer], self.mask)

    def keep(self, rows: Tensor) -> None:
        """Go on with these rows only, given as indices into this memory's own."""
        self.keys = [key.index_select(0, rows) for key in self.keys]
        self.values = [value.index_select(0, rows) for value in self.values]
        self.mask = self.mask.index_select(0, rows)


def attend_once(queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None = None) -> Tensor:
    """Return the contexts [rows, heads, 1, size] of one query a row and head, [rows, heads, 1, size].

    `keys` and `values` are [rows, heads, length, size]; `mask` is added to the scores. Twice as fast
    as the fused attention for a single query: that one is made for many.
    """
    scale = queries.shape[-1] ** -0.5
    factors = queries.flatten(0, 1), keys.flatten(0, 1).mT
    if mask is None:
        scores = torch.bmm(*factors).mul_(scale)
    else:
        scores = torch.baddbmm(mask.flatten(0, 1), *factors, alpha=scale)
    return torch.bmm(scores.softmax(-1), values.flatten(0, 1)).view(queries.shape)


def _normalize(norm: nn.LayerNorm, values: Tensor) -> Tensor:
    normalized: Tensor = norm(values)
    return normalized


def _mix(candidates: Tensor, gates: Tensor, cells: Tensor) -> None:
    torch.lerp(candidates, cells, gates.sigmoid(), out=cells)


FLOAT: Final = Arithmetic(_normalize, _mix, attend_once)
"""By torch's own functions."""
