"""Llama-family models from GGUF files, as transformers models."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import LlamaConfig, LlamaForCausalLM

from stream_infer.engine.gguf_file import GgufFile, read_gguf
from stream_infer.errors import ConfigError

_ARCHITECTURE: Final = "llama"
_TOP: Final = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
_LAYER: Final = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


def load_gguf(path: Path) -> Any:
    """Return the model of a GGUF file at full precision, in float32.

    Raises:
        ConfigError: the file cannot be read, or its architecture is not Llama's (SmolLM, TinyLlama).
    """
    file = read_gguf(path)
    config = _read_config(file)
    with torch.device("meta"):
        model: Any = LlamaForCausalLM(config)  # type: ignore[no-untyped-call] # publishes no types here
    weights = {name: torch.from_numpy(values) for name, values in _weights(file, config)}
    if config.tie_word_embeddings:
        weights["lm_head.weight"] = weights["model.embed_tokens.weight"]
    missing, unknown = model.load_state_dict(weights, strict=False, assign=True)
    if missing or unknown:
        raise ConfigError(f"{path}: tensors missing {missing}, unknown {unknown}")
    model.model.rotary_emb = type(model.model.rotary_emb)(config)
    return model.eval()


def _read_config(file: GgufFile) -> LlamaConfig:
    if (architecture := file.get("general.architecture")) != _ARCHITECTURE:
        raise ConfigError(f"{file.path}: architecture {architecture!r} is not supported, only llama")
    if "rope_freqs.weight" in file.tensors:
        raise ConfigError(f"{file.path}: scaled rotary positions are not supported")

    def get(key: str) -> Any:
        return file.get(f"{_ARCHITECTURE}.{key}")

    heads = get("attention.head_count")
    rope: dict[str, Any] = {
        "rope_type": "default",
        "rope_theta": file.metadata.get(f"{_ARCHITECTURE}.rope.freq_base", 10_000.0),
    }
    return LlamaConfig(
        vocab_size=file.tensors["token_embd.weight"].shape[0],
        hidden_size=get("embedding_length"),
        intermediate_size=get("feed_forward_length"),
        num_hidden_layers=get("block_count"),
        num_attention_heads=heads,
        num_key_value_heads=file.metadata.get(f"{_ARCHITECTURE}.attention.head_count_kv", heads),
        max_position_embeddings=get("context_length"),
        rms_norm_eps=get("attention.layer_norm_rms_epsilon"),
        rope_parameters=rope,
        bos_token_id=file.metadata.get("tokenizer.ggml.bos_token_id"),
        eos_token_id=file.get("tokenizer.ggml.eos_token_id"),
        tie_word_embeddings="output.weight" not in file.tensors,
    )


def _weights(file: GgufFile, config: LlamaConfig) -> Iterator[tuple[str, NDArray[np.float32]]]:
    for name in file.tensors:
        stem, _, suffix = name.rpartition(".")
        values = file.tensor(name)
        if stem in _TOP:
            yield f"{_TOP[stem]}.{suffix}", values
            continue
        _, layer, part = stem.split(".", 2)
        heads = {"attn_q": config.num_attention_heads, "attn_k": config.num_key_value_heads}.get(part)
        target = _LAYER.get(part, part)
        yield (
            f"model.layers.{layer}.{target}.{suffix}",
            values if heads is None else _unpermute(values, heads),
        )


def _unpermute(values: NDArray[np.float32], heads: int) -> NDArray[np.float32]:
    """Return rows in the order of transformers, which rotates halves of a head instead of neighbours."""
    half = values.shape[0] // heads // 2
    paired = values.reshape(heads, half, 2, *values.shape[1:])
    return np.ascontiguousarray(paired.swapaxes(1, 2).reshape(values.shape))
