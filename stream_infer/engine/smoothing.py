"""Columns of a layer's inputs made more alike before they are rounded.

Xiao et al., "SmoothQuant: Accurate and Efficient Post-Training Quantization for Large Language Models",
2023, with a migration strength of 1/2. A normalisation leaves a few columns many times as wide as the
others, and a row's levels are as far apart as its widest column asks for. So columns are divided by
factors, and the weights multiplied, found from the sample that every load runs anyway.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import torch
from torch import Tensor, nn

_LEAST: Final = 1e-5

Widths = Mapping[nn.Module, Tensor]
"""The greatest magnitude of each column of a linear layer's inputs, [in]."""


class WidthWatch:
    """Notes how wide the inputs of a model's linear layers are, from when it is made until `stop`."""

    def __init__(self, model: nn.Module) -> None:
        self._widths: dict[nn.Module, Tensor] = {}
        linears = [module for module in model.modules() if type(module) is nn.Linear]
        self._hooks = [module.register_forward_pre_hook(self._note) for module in linears]

    def stop(self) -> Widths:
        """Return what was noted, and note no more."""
        for hook in self._hooks:
            hook.remove()
        return self._widths

    def _note(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        widths = inputs[0].detach().flatten(0, -2).abs().amax(0).float()
        known = self._widths.get(module)
        self._widths[module] = widths if known is None else torch.maximum(known, widths)


def smoothing_factors(widths: Tensor, weight: Tensor) -> Tensor:
    """Return what each input column is divided by, [in], for a weight [out, in]."""
    weights = weight.abs().amax(0).float()
    return (widths.clamp(min=_LEAST) / weights.clamp(min=_LEAST)).sqrt()
