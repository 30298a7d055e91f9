"""Which words a Marian decoder's rows may say next, and how likely each of them is."""

from __future__ import annotations

from copy import copy
from typing import Protocol

import torch
from torch import Tensor, nn

from stream_infer.engine.quantization import Int8Linear


class Words(Protocol):
    """The words that the rows of one batch choose from."""

    def score(self, hidden: Tensor) -> Tensor:
        """Return the logits of each row's choice, [rows, choice]; words that it may not say have none."""
        ...

    def name(self, places: Tensor) -> Tensor:
        """Return the words that stand at these places of the scores; places are [rows] or [rows, count]."""
        ...

    def keep(self, rows: Tensor) -> None:
        """Go on with these rows only, given as indices."""
        ...


class AllWords:
    """Every word of the vocabulary."""

    def __init__(self, projection: nn.Module) -> None:
        self._projection = projection

    def score(self, hidden: Tensor) -> Tensor:
        """Return the logits of all words, [rows, vocab_size]."""
        scores: Tensor = self._projection(hidden)
        return scores

    def name(self, places: Tensor) -> Tensor:
        """Return the words, which are their own places."""
        return places

    def keep(self, rows: Tensor) -> None:
        """Change nothing: rows are alike."""


class CommonWords:
    """The words that some row needs, scored for all of them; `allowed` [rows, vocab_size] says which."""

    def __init__(self, projection: nn.Module, allowed: Tensor) -> None:
        self._words = allowed.any(0).nonzero()[:, 0]
        self._projection = select_outputs(projection, self._words)
        is_banned = ~allowed.index_select(1, self._words)
        self._penalties = torch.zeros(is_banned.shape).masked_fill_(is_banned, -torch.inf)

    def score(self, hidden: Tensor) -> Tensor:
        """Return the logits, [rows, needed words]; those of words that a row may not say are -inf."""
        scores: Tensor = self._projection(hidden)
        return scores.add_(self._penalties)

    def name(self, places: Tensor) -> Tensor:
        """Return the words that stand at these places of the scores."""
        return self._words[places]

    def keep(self, rows: Tensor) -> None:
        """Go on with these rows only, given as indices."""
        self._penalties = self._penalties.index_select(0, rows)


def select_outputs(layer: nn.Module, outputs: Tensor) -> nn.Module:
    """Return a linear layer, plain or 8-bit, that computes only these outputs of `layer`."""
    if isinstance(layer, Int8Linear):
        return layer.select(outputs)
    selected = copy(layer)
    for tensors in ("_parameters", "_buffers"):
        own = {
            name: tensor if tensor is None else tensor.index_select(0, outputs)
            for name, tensor in getattr(layer, tensors).items()
        }
        selected.__dict__[tensors] = own
    selected.__dict__["out_features"] = len(outputs)
    return selected
