"""Merging low-rank adapters into the encoder that they were trained on.

Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", 2021.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from stream_infer.engine.sources import CARD_NAME, WEIGHTS_NAME
from stream_infer.errors import ConfigError

_A: Final = ".lora_A"
_B: Final = ".lora_B"


def merge_adapters(module: nn.Module, directory: Path) -> None:
    """Add `scale * B @ A` to the weight of each linear layer that the artefact in `directory` adapts.

    Raises:
        ConfigError: the artefact does not fit the module.
    """
    scale = float(json.loads((directory / CARD_NAME).read_text(encoding="utf-8"))["scale"])
    tensors = load_file(directory / WEIGHTS_NAME)
    paths = [name.removesuffix(_A) for name in tensors if name.endswith(_A)]
    if not paths:
        raise ConfigError(f"{directory}: {WEIGHTS_NAME} holds no adapters")
    for path in paths:
        try:
            _merge(module.get_submodule(path), tensors[path + _A], tensors[path + _B], scale)
        except (AttributeError, KeyError, RuntimeError) as error:
            raise ConfigError(f"{directory}: the adapter of {path} does not fit the base model") from error


@torch.no_grad()
def _merge(layer: nn.Module, down: Tensor, up: Tensor, scale: float) -> None:
    weight = layer.get_parameter("weight")
    weight.add_((scale * (up.float() @ down.float())).to(weight))
