from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM

from stream_infer.engine.generation_tokens import load as load_tokenizer
from stream_infer.engine.gguf_file import read_gguf
from stream_infer.engine.gguf_model import load_gguf
from stream_infer.engine.sources import resolve
from stream_infer.errors import ConfigError
from stream_infer.schemas import Work

HEADS, KEY_HEADS, SIZE = 4, 2, 32
BYTES = sorted(pre_tokenizers.ByteLevel.alphabet())
TOKENS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *BYTES, "he", "Ġh", "Ġhe"]
NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def tiny_llama() -> Any:
    torch.manual_seed(5)
    config = LlamaConfig(
        vocab_size=len(TOKENS),
        hidden_size=SIZE,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=HEADS,
        num_key_value_heads=KEY_HEADS,
        max_position_embeddings=128,
        rope_parameters={"rope_type": "default", "rope_theta": 500.0},
        tie_word_embeddings=True,
        eos_token_id=2,
    )
    factory: Any = LlamaForCausalLM
    model = factory(config)
    for weight in model.parameters():
        torch.nn.init.normal_(weight, std=0.3)
    model.eval()
    return model


def gguf_name(name: str) -> str:
    stem, suffix = name.rsplit(".", 1)
    if stem in NAMES:
        return f"{NAMES[stem]}.{suffix}"
    layer, part = stem.removeprefix("model.layers.").split(".", 1)
    return f"blk.{layer}.{NAMES[part]}.{suffix}"


def permuted(name: str, values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Put the rows of queries and keys in ggml's order: the two halves of a head interleaved."""
    heads = {"attn_q": HEADS, "attn_k": KEY_HEADS}.get(name.split(".")[-2])
    if heads is None:
        return values
    halves = values.reshape(heads, 2, values.shape[0] // heads // 2, *values.shape[1:])
    return np.ascontiguousarray(halves.swapaxes(1, 2).reshape(values.shape))


def write(path: Path, model: Any, *, architecture: str = "llama", pre: str = "smollm") -> None:
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_block_count(2)
    writer.add_context_length(128)
    writer.add_embedding_length(SIZE)
    writer.add_feed_forward_length(64)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KEY_HEADS)
    writer.add_rope_freq_base(500.0)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(TOKENS)
    writer.add_token_types([3, 3, 3, *[1] * (len(TOKENS) - 3)])
    writer.add_token_merges(["h e", "Ġ h", "Ġ he"])
    writer.add_eos_token_id(2)
    for name, weight in model.state_dict().items():
        if name == "lm_head.weight":
            continue
        target = gguf_name(name)
        values = permuted(target, weight.numpy())
        if target.endswith("ffn_down.weight"):
            kind = gguf.GGMLQuantizationType.Q8_0
            writer.add_tensor(target, gguf.quants.quantize(values, kind), raw_dtype=kind)
        else:
            writer.add_tensor(target, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.gguf"
    write(path, tiny_llama())
    return path


def test_model_reads_as_it_was_written(path: Path) -> None:
    """Rotary order, tied embeddings and blocks of 8 bits: the logits are those of the original."""
    ids = torch.arange(12)[None]
    with torch.inference_mode():
        expected = tiny_llama()(ids).logits
        logits = load_gguf(path)(ids).logits

    torch.testing.assert_close(logits, expected, rtol=0.05, atol=0.05)
    assert torch.equal(logits.argmax(-1), expected.argmax(-1))


def test_metadata_is_read_with_its_types(path: Path) -> None:
    file = read_gguf(path)

    assert "llama" == file.get("general.architecture")
    assert 2 == file.get("llama.block_count")
    assert TOKENS == file.get("tokenizer.ggml.tokens")
    assert pytest.approx(1e-6) == file.get("llama.attention.layer_norm_rms_epsilon")
    assert (len(TOKENS), SIZE) == file.tensors["token_embd.weight"].shape


def test_tokenizer_is_read_from_the_file(path: Path) -> None:
    tokenizer = load_tokenizer(resolve(f"path:{path.parent}"))

    (tokens,) = tokenizer.encode([Work("m", "<|im_start|>he he 12é")])

    assert ["<|im_start|>", "he", "Ġhe", "Ġ", "1", "2", "Ã", "©"] == [TOKENS[i] for i in tokens.ids]
    assert "he he 12é" == tokenizer.decode(tokens.ids.tolist())
    assert tokenizer.is_chat
    assert 128 == tokenizer.max_tokens


@pytest.mark.parametrize(
    ("change", "message", "read"),
    [
        ({"architecture": "mamba"}, "mamba", load_gguf),
        ({"pre": "tekken"}, "tekken", lambda path: load_tokenizer(resolve(f"path:{path.parent}"))),
    ],
)
def test_unsupported_files_are_refused_by_name(
    change: dict[str, str], message: str, read: Callable[[Path], object], tmp_path: Path
) -> None:
    path = tmp_path / "tiny.gguf"
    write(path, tiny_llama(), **change)

    with pytest.raises(ConfigError, match=message):
        read(path)


def test_missing_values_and_tensors_are_named(path: Path) -> None:
    file = read_gguf(path)

    with pytest.raises(ConfigError, match=r"no such\.key"):
        file.get("such.key")
    with pytest.raises(ConfigError, match="no tensor such"):
        file.tensor("such")


def test_several_files_in_one_directory_are_refused(path: Path) -> None:
    (path.parent / "other.gguf").write_bytes(path.read_bytes())

    with pytest.raises(ConfigError, match="2 GGUF files"):
        load_tokenizer(resolve(f"path:{path.parent}"))


@settings(suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture], max_examples=60)
@given(st.data())
def test_damaged_files_are_refused(path: Path, data: st.DataObject) -> None:
    """Whatever is cut off or overwritten, a file reads or is refused; it never does anything else."""
    whole = path.read_bytes()
    damaged = bytearray(whole[: data.draw(st.integers(0, len(whole)))])
    for _ in range(data.draw(st.integers(0, 4))):
        if damaged:
            damaged[data.draw(st.integers(0, min(len(damaged) - 1, 3000)))] = data.draw(st.integers(0, 255))
    copy = path.with_suffix(".damaged")
    copy.write_bytes(damaged)
    try:
        file = read_gguf(copy)
        for name in file.tensors:
            file.tensor(name)
    except ConfigError:
        return
