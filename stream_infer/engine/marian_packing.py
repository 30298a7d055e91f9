"""Turning a Marian model of transformers into the packed one, which has no padding and one shape of batch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

import torch
from torch import Tensor
from transformers import MarianMTModel

from stream_infer.engine.marian import PackedMarian
from stream_infer.engine.marian_layers import PackedMarianConfig

# For each module those of transformers that follow a layer's prefix; several are stacked in order.
_FEED_FORWARD: Final = {
    "feed_forward.inner": ("fc1",),
    "feed_forward.outer": ("fc2",),
    "feed_forward.norm": ("final_layer_norm",),
}
_ENCODER: Final = _FEED_FORWARD | {
    "qkv": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "attended": ("self_attn.out_proj",),
    "norm": ("self_attn_layer_norm",),
}
_DECODER: Final = _FEED_FORWARD | {
    "past.qkv": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "past.attended": ("self_attn.out_proj",),
    "past.norm": ("self_attn_layer_norm",),
    "query": ("encoder_attn.q_proj",),
    "key_value": ("encoder_attn.k_proj", "encoder_attn.v_proj"),
    "attended": ("encoder_attn.out_proj",),
    "norm": ("encoder_attn_layer_norm",),
}


def can_be_packed(model: Any) -> bool:
    """Say whether `model` is a Marian model with one table of words for all, and halves of one shape."""
    if type(model) is not MarianMTModel or model.generation_config.forced_bos_token_id is not None:
        return False
    config, table = model.config, model.lm_head.weight
    return (
        model.model.encoder.embed_tokens.weight is table
        and model.model.decoder.embed_tokens.weight is table
        and config.encoder_ffn_dim == config.decoder_ffn_dim
        and config.encoder_attention_heads == config.decoder_attention_heads
    )


def pack_marian(model: Any) -> PackedMarian:
    """Return the packed model with the weights of `model`, which `can_be_packed`.

    Words that its generation settings ban get no chance through the projection's bias.
    """
    config = model.config
    packed_config = PackedMarianConfig(
        vocab_size=config.vocab_size,
        hidden_size=config.d_model,
        intermediate_size=config.encoder_ffn_dim,
        num_attention_heads=config.encoder_attention_heads,
        encoder_layers=config.encoder_layers,
        decoder_layers=config.decoder_layers,
        max_positions=config.max_position_embeddings,
        eos_token_id=config.eos_token_id,
        is_recurrent=False,
        start_token_id=model.generation_config.decoder_start_token_id,
        activation=config.activation_function,
        layer_norm_epsilon=1e-5,
        embedding_scale=config.d_model**0.5 if config.scale_embedding else 1.0,
        position_steps=config.d_model // 2,
    )
    packed = PackedMarian(packed_config)
    packed.load_state_dict(dict(_name_weights(model)), strict=True, assign=True)
    packed.tie_weights()
    packed.train(mode=False)
    return packed


def _name_weights(model: Any) -> Iterator[tuple[str, Tensor]]:
    weights = model.model.state_dict()
    yield "embeddings.weight", model.lm_head.weight.detach()
    yield "projection.weight", model.lm_head.weight.detach()
    banned = [words[0] for words in model.generation_config.bad_words_ids or () if len(words) == 1]
    bias = model.final_logits_bias[0].clone()
    bias[banned] = -torch.inf
    yield "projection.bias", bias
    for block, names in (("encoder", _ENCODER), ("decoder", _DECODER)):
        for layer in range(len(getattr(model.model, block).layers)):
            yield from _name_layer(weights, block, layer, names)


def _name_layer(
    weights: Mapping[str, Tensor], block: str, layer: int, names: Mapping[str, tuple[str, ...]]
) -> Iterator[tuple[str, Tensor]]:
    for name, parts in names.items():
        for kind in ("weight", "bias"):
            stacked = torch.cat([weights[f"{block}.layers.{layer}.{part}.{kind}"] for part in parts])
            yield f"{block}.{layer}.{name}.{kind}", stacked
