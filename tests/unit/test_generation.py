from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer as FastTokenizer
from tokenizers import models, pre_tokenizers
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
)

from stream_infer.engine.causal import SUPPORTED
from stream_infer.engine.generation import GenerationBackend, load
from stream_infer.engine.generation_tokens import GenerationTokenizer
from stream_infer.engine.generation_tokens import load as load_tokenizer
from stream_infer.engine.sources import resolve
from stream_infer.engine.specs import ModelKind, ModelSpec, Precision
from stream_infer.errors import ConfigError
from stream_infer.schemas import Output, Tokens, Work

WORDS = ["</s>", "<|im_start|>", "<|im_end|>", *(f"w{number}" for number in range(60)), "<unk>"]
END = 0
PROMPTS = ("w1 w2 w3", "w4", "w5 w6 w7 w8 w9 w10 w11", "w12 w13 w14", "w2")
NEW_TOKENS = 6


@pytest.fixture(autouse=True)
def _one_thread() -> Any:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def save_tokenizer(directory: Path) -> None:
    vocabulary = {word: number for number, word in enumerate(WORDS)}
    tokenizer = FastTokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))  # noqa: S106 - no password
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.add_special_tokens(WORDS[:3])
    tokenizer.save(str(directory / "tokenizer.json"))


def tiny_config(kind: str) -> Any:
    sizes = {
        "vocab_size": len(WORDS),
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "max_position_embeddings": 64,
        "eos_token_id": END,
        "bos_token_id": END,
        "pad_token_id": END,
    }
    return AutoConfig.for_model(kind, **sizes)


def save_causal(directory: Path, kind: str = "llama") -> Any:
    torch.manual_seed(7)
    factory: Any = AutoModelForCausalLM
    model = factory.from_config(tiny_config(kind)).eval()
    for weight in model.parameters():
        # The usual small numbers would make every next token about as likely.
        torch.nn.init.normal_(weight, std=0.4)
    model.save_pretrained(directory)
    save_tokenizer(directory)
    return model


def backend(directory: Path, precision: Precision = Precision.FP32, **options: object) -> GenerationBackend:
    source = f"path:{directory}"
    options = {"max_new_tokens": NEW_TOKENS, "min_agreement": 0.0, **options}
    return load(ModelSpec("reader", ModelKind.GENERATE, source, precision, "cpu", options), resolve(source))


def tokens_of(directory: Path, prompts: Sequence[str] = PROMPTS) -> list[Tokens]:
    return load_tokenizer(resolve(f"path:{directory}")).encode([Work("reader", text) for text in prompts])


def run(reader: GenerationBackend, batch: Sequence[Tokens]) -> list[Output]:
    return reader.run(batch, [""] * len(batch))


def generated_alone(model: Any, tokens: Tokens) -> list[int]:
    ids = torch.from_numpy(tokens.ids.astype(np.int64))[None]
    made = model.generate(
        ids, max_new_tokens=NEW_TOKENS, do_sample=False, attention_mask=torch.ones_like(ids)
    )
    row: list[int] = made[0, ids.shape[1] :].tolist()
    return row[: row.index(END)] if END in row else row


@pytest.mark.slow
@pytest.mark.parametrize("kind", sorted(SUPPORTED))
def test_batch_generates_what_each_prompt_gets_alone(kind: str, tmp_path: Path) -> None:
    """Packed rows of different lengths give the tokens of transformers' own greedy search."""
    model = save_causal(tmp_path, kind)
    batch = tokens_of(tmp_path)

    texts = [output.text for output in run(backend(tmp_path), batch)]

    decode = load_tokenizer(resolve(f"path:{tmp_path}")).decode
    assert [decode(generated_alone(model, item)) for item in batch] == texts
    assert len(set(texts)) > 2


@pytest.mark.slow
def test_eight_bit_text_is_the_same_in_every_batch(tmp_path: Path) -> None:
    save_causal(tmp_path)
    reader = backend(tmp_path, Precision.INT8)
    batch = tokens_of(tmp_path)

    together = run(reader, batch)

    assert [run(reader, [item])[0] for item in batch] == together
    assert list(reversed(run(reader, batch[::-1]))) == together
    assert "int8" == reader.info.precision
    assert 0 < reader.info.agreement <= 1


@pytest.mark.slow
def test_text_is_cut_at_its_limit_and_flagged(tmp_path: Path) -> None:
    save_causal(tmp_path)
    batch = tokens_of(tmp_path)

    outputs = run(backend(tmp_path, max_new_tokens=1), batch)

    assert all(len((output.text or "").split()) <= 1 for output in outputs)
    assert any(output.truncated for output in outputs)


@pytest.mark.slow
def test_cut_prompt_is_flagged(tmp_path: Path) -> None:
    save_causal(tmp_path)

    (long,) = tokens_of(tmp_path, ["w1 " * 200])

    assert (64, True) == (len(long.ids), long.truncated)
    assert run(backend(tmp_path), [Tokens(long.ids[:40], truncated=True)])[0].truncated


@pytest.mark.slow
@pytest.mark.parametrize("precision", [Precision.FP32, Precision.INT8])
def test_sequence_to_sequence_models_generate_too(precision: Precision, tmp_path: Path) -> None:
    torch.manual_seed(7)
    make: Any = T5Config
    config = make(
        vocab_size=len(WORDS),
        d_model=32,
        d_kv=8,
        d_ff=48,
        num_layers=2,
        num_heads=4,
        decoder_start_token_id=END,
        eos_token_id=END,
        pad_token_id=END,
    )
    model: Any = T5ForConditionalGeneration(config)
    model.eval()
    model.save_pretrained(tmp_path)
    save_tokenizer(tmp_path)
    reader = backend(tmp_path, precision)
    batch = tokens_of(tmp_path)

    together = run(reader, batch)

    assert [run(reader, [item])[0] for item in batch] == together


@pytest.mark.slow
def test_unknown_architecture_is_refused_by_name(tmp_path: Path) -> None:
    save_causal(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "model_type": "gpt2"}))

    with pytest.raises(ConfigError, match="gpt2"):
        backend(tmp_path)


@pytest.mark.slow
def test_model_that_never_ends_is_refused(tmp_path: Path) -> None:
    save_causal(tmp_path)
    for name in ("config.json", "generation_config.json"):
        config = json.loads((tmp_path / name).read_text())
        (tmp_path / name).write_text(json.dumps({**config, "eos_token_id": None}))

    with pytest.raises(ConfigError, match="ends a text"):
        backend(tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("limit", [0, "many"])
def test_bad_limit_is_refused(limit: object, tmp_path: Path) -> None:
    save_causal(tmp_path)

    with pytest.raises(ConfigError, match="max_new_tokens"):
        backend(tmp_path, max_new_tokens=limit)


def test_tokenizer_counts_and_knows_conversations(tmp_path: Path) -> None:
    save_tokenizer(tmp_path)
    tokenizer = GenerationTokenizer(FastTokenizer.from_file(str(tmp_path / "tokenizer.json")), 8)

    assert tokenizer.is_chat
    assert 3 == tokenizer.count("<|im_start|> w1 w2")
    assert "w1 w2" == tokenizer.decode([1, 4, 5, 2])
    assert [] == tokenizer.spans(Work("reader", "w1"))


def test_missing_tokenizer_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"")

    with pytest.raises(ConfigError, match=r"tokenizer\.json"):
        load_tokenizer(resolve(f"path:{tmp_path}"))
