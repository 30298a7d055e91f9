"""Turning a parsed Marian file into the torch model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stream_infer.engine.marian import PackedMarian
from stream_infer.engine.marian_file import MarianFile
from stream_infer.engine.marian_layers import PackedMarianConfig
from stream_infer.errors import ConfigError

EXPECTED_SETTINGS: Final = {
    "type": "transformer",
    "dec-cell": "ssru",
    "transformer-decoder-autoreg": "rnn",
    "transformer-ffn-activation": "relu",
    "transformer-ffn-depth": "2",
    "transformer-preprocess": "",
    "transformer-postprocess": "dan",
    "tied-embeddings-all": "true",
}

# For each parameter the file's names that follow a layer's prefix; several are stacked in order.
_FEED_FORWARD: Final = {
    "feed_forward.inner.weight": ("ffn_W1",),
    "feed_forward.inner.bias": ("ffn_b1",),
    "feed_forward.outer.weight": ("ffn_W2",),
    "feed_forward.outer.bias": ("ffn_b2",),
    "feed_forward.norm.weight": ("ffn_ffn_ln_scale",),
    "feed_forward.norm.bias": ("ffn_ffn_ln_bias",),
}
_ENCODER: Final = _FEED_FORWARD | {
    "qkv.weight": ("self_Wq", "self_Wk", "self_Wv"),
    "qkv.bias": ("self_bq", "self_bk", "self_bv"),
    "attended.weight": ("self_Wo",),
    "attended.bias": ("self_bo",),
    "norm.weight": ("self_Wo_ln_scale",),
    "norm.bias": ("self_Wo_ln_bias",),
}
_DECODER: Final = _FEED_FORWARD | {
    "past.gates.weight": ("rnn_W", "rnn_Wf"),
    "past.norm.weight": ("rnn_ffn_ln_scale",),
    "past.norm.bias": ("rnn_ffn_ln_bias",),
    "query.weight": ("context_Wq",),
    "query.bias": ("context_bq",),
    "key_value.weight": ("context_Wk", "context_Wv"),
    "key_value.bias": ("context_bk", "context_bv"),
    "attended.weight": ("context_Wo",),
    "attended.bias": ("context_bo",),
    "norm.weight": ("context_Wo_ln_scale",),
    "norm.bias": ("context_Wo_ln_bias",),
}


def build_model(file: MarianFile) -> PackedMarian:
    """Return the model that a Marian file holds, in float32.

    Raises:
        ConfigError: it is of another architecture, or parts of it are missing or of the wrong size.
    """
    for key, expected in EXPECTED_SETTINGS.items():
        if (found := file.settings.get(key)) != expected:
            raise ConfigError(f"a Marian model with {key} {found!r} is not supported, only {expected!r}")
    try:
        config = _read_config(file)
        weights = _name_weights(file.weights, config)
        model = PackedMarian(config)
        model.load_state_dict(weights, strict=True)
    except KeyError as error:
        raise ConfigError(f"the Marian model lacks {error}") from error
    except (ValueError, RuntimeError) as error:
        raise ConfigError(f"the Marian model's parts do not fit together: {error}") from error
    model.train(mode=False)
    return model


def _read_config(file: MarianFile) -> PackedMarianConfig:
    vocab_size, hidden_size = file.weights["Wemb"].shape
    return PackedMarianConfig(
        vocab_size=vocab_size,
        hidden_size=hidden_size,
        intermediate_size=file.weights["encoder_l1_ffn_W1"].shape[0],
        num_attention_heads=int(file.settings["transformer-heads"]),
        encoder_layers=int(file.settings["enc-depth"]),
        decoder_layers=int(file.settings["dec-depth"]),
        embedding_scale=hidden_size**0.5,
        position_steps=hidden_size // 2 - 1,
    )


def _name_weights(
    weights: Mapping[str, NDArray[np.float32]], config: PackedMarianConfig
) -> dict[str, Tensor]:
    """Return the state dictionary of `PackedMarian`; matrices that read the same input become one."""
    named = {
        "embeddings.weight": torch.tensor(weights["Wemb"]),
        "projection.weight": torch.tensor(weights["Wemb"]),
        "projection.bias": torch.tensor(weights["decoder_ff_logit_out_b"]).ravel(),
    }
    for block, names, layers in (
        ("encoder", _ENCODER, config.encoder_layers),
        ("decoder", _DECODER, config.decoder_layers),
    ):
        for layer in range(layers):
            prefix = f"{block}_l{layer + 1}_"
            for parameter, parts in names.items():
                named[f"{block}.{layer}.{parameter}"] = _stack([weights[prefix + part] for part in parts])
    for layer in range(config.decoder_layers):
        # The candidate has no bias, the forget gate has one; both halves are computed together.
        gate = torch.tensor(weights[f"decoder_l{layer + 1}_rnn_bf"]).ravel()
        named[f"decoder.{layer}.past.gates.bias"] = torch.cat([torch.zeros_like(gate), gate])
    return named


def _stack(parts: list[NDArray[np.float32]]) -> Tensor:
    """Return matrices [out, in] stacked along their outputs, or [1, size] vectors joined into one."""
    if parts[0].shape[0] == 1:
        parts = [part.ravel() for part in parts]
    return torch.tensor(np.concatenate(parts))
