"""Where a model runs, and in which number type."""

from __future__ import annotations

import torch

from stream_infer.engine.specs import ModelSpec, Precision
from stream_infer.errors import ConfigError


def pick_device(spec: ModelSpec) -> torch.device:
    """Return the device that `spec` asks for; `auto` is the first GPU where there is one, else the CPU.

    Raises:
        ConfigError: there is no such device here.
    """
    if spec.device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(spec.device)
    except RuntimeError as error:
        raise ConfigError(f"model {spec.name}: device {spec.device!r} is unknown") from error
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        visible = torch.cuda.device_count()
        raise ConfigError(
            f"model {spec.name}: device {spec.device!r} is not here: {visible} GPUs are visible"
        )
    return device


def pick_dtype(precision: Precision, device: torch.device) -> torch.dtype:
    """Return the type of whatever is not 8-bit: embeddings, norms, and activations between layers."""
    if precision is Precision.BF16:
        return torch.bfloat16
    if precision is Precision.INT8 and device.type == "cuda":
        # bitsandbytes' kernels read half precision.
        return torch.float16
    return torch.float32
