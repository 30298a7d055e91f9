"""8-bit Marian decoders that compute the same bits by the C++ kernels and in torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, cast

from stream_infer.engine import exact
from stream_infer.engine.exact import Activation
from stream_infer.engine.fused import can_fuse_sizes
from stream_infer.engine.kernels import load_kernels
from stream_infer.engine.marian import PackedMarian
from stream_infer.engine.marian_kernels import KernelDecoder
from stream_infer.engine.marian_layers import DecoderLayer
from stream_infer.engine.marian_lookback import Arithmetic
from stream_infer.engine.quantization import Int8Linear, quantize

EXACT: Final = Arithmetic(exact.normalize, exact.mix, exact.attend_once)
"""What the kernels compute, in torch."""

_ACTIVATIONS: Final[Mapping[str, Activation]] = {
    "gelu": exact.GELU,
    "relu": exact.RELU,
    "silu": exact.SILU,
    "swish": exact.SILU,
}


def quantize_marian(model: PackedMarian) -> None:
    """Quantise the linear layers of a model in place, and fuse its decoder where it can be.

    On CUDA, and where sizes or the activation are none of the kernels', layers stay apart.
    """
    quantize(model, ())
    activation = _ACTIVATIONS.get(model.config.activation)
    if activation is None or model.device.type != "cpu" or not _is_fusible(model.config):
        return
    layers = list(cast("Sequence[DecoderLayer]", model.decoder))
    for layer in layers:
        for part in (layer, layer.past, layer.feed_forward):
            part.arithmetic = EXACT
        layer.feed_forward.activation = activation.run
    if (kernels := load_kernels()) is not None:
        projection = cast("Int8Linear", model.projection)
        model.kernels = KernelDecoder(kernels, layers, projection, activation)


def _is_fusible(config: Any) -> bool:
    return can_fuse_sizes(config.hidden_size, config.num_attention_heads, config.intermediate_size)
