from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer as FastTokenizer
from tokenizers import models, pre_tokenizers, processors
from transformers import AutoConfig, AutoModelForQuestionAnswering

from stream_infer.engine.extraction import (
    MAX_ANSWER_TOKENS,
    ExtractionBackend,
    best_span,
    find_second_text,
    have_same_words,
    load,
)
from stream_infer.engine.sources import resolve
from stream_infer.engine.specs import ModelKind, ModelSpec, Precision
from stream_infer.engine.tokenization import SubwordTokenizer
from stream_infer.errors import ConfigError
from stream_infer.schemas import Tokens, Work

WORDS = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", *(f"w{number}" for number in range(60))]
PAIRS = (
    Work("reader", "w1 w2", pair="w3 w4 w5 w6"),
    Work("reader", "w7", pair="w8"),
    Work("reader", "w1 w2", pair="w9 w10 w11 w12"),
    Work("reader", "w1 w2 w3 w4", pair="w5"),
)


@pytest.fixture(autouse=True)
def _one_thread() -> Any:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def save(directory: Path, kind: str = "bert") -> Any:
    tokenizer = FastTokenizer(
        models.WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token="[UNK]")  # noqa: S106 - no password
    )
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.add_special_tokens(WORDS[:4])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] [SEP] $B [SEP]" if kind == "roberta" else "[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 1), ("[SEP]", 2)],
    )
    tokenizer.save(str(directory / "tokenizer.json"))
    (directory / "tokenizer_config.json").write_text(json.dumps({"sep_token": "[SEP]"}))
    sizes = {
        "vocab_size": len(WORDS),
        "hidden_size": 32,
        "dim": 32,
        "intermediate_size": 48,
        "hidden_dim": 48,
        "num_hidden_layers": 2,
        "n_layers": 2,
        "num_attention_heads": 4,
        "n_heads": 4,
        "pad_token_id": 0,
        "max_position_embeddings": 64,
    }
    if kind == "roberta":
        sizes["type_vocab_size"] = 1
    torch.manual_seed(3)
    factory: Any = AutoModelForQuestionAnswering
    model = factory.from_config(AutoConfig.for_model(kind, **sizes)).eval()
    for name, weight in model.named_parameters():
        if "LayerNorm" not in name and "layer_norm" not in name:
            torch.nn.init.normal_(weight, std=0.4)
    model.save_pretrained(directory)
    return model


def backend(directory: Path, precision: Precision = Precision.FP32) -> ExtractionBackend:
    source = f"path:{directory}"
    spec = ModelSpec("reader", ModelKind.EXTRACT, source, precision, "cpu", {"min_agreement": 0.0})
    return load(spec, resolve(source))


def tokens_of(directory: Path) -> list[Tokens]:
    return SubwordTokenizer.from_directory(directory).encode(PAIRS)


def vectors(reader: ExtractionBackend, batch: list[Tokens]) -> list[list[float]]:
    outputs = reader.run(batch, [""] * len(batch))
    assert all(output.vector is not None and output.vector.dtype == np.float32 for output in outputs)
    return [output.vector.tolist() for output in outputs if output.vector is not None]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["bert", "roberta", "distilbert", "electra", "mpnet"])
def test_batch_gives_what_transformers_gives_each_pair_alone(kind: str, tmp_path: Path) -> None:
    model = save(tmp_path, kind)
    batch = tokens_of(tmp_path)

    read = vectors(backend(tmp_path), batch)

    for tokens, vector in zip(batch, read, strict=True):
        second = find_second_text(tokens.ids, 2)
        inputs = {"input_ids": torch.from_numpy(tokens.ids.astype(np.int64))[None]}
        if kind in {"bert", "electra"}:
            inputs["token_type_ids"] = (torch.arange(len(tokens.ids)) >= second).long()[None]
        with torch.inference_mode():
            made = model(**inputs)
        expected = best_span(made.start_logits[0].numpy(), made.end_logits[0].numpy(), second)
        assert pytest.approx(expected.tolist(), abs=1e-4) == vector


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["bert", "mpnet"])
def test_eight_bit_answer_is_the_same_in_every_batch(kind: str, tmp_path: Path) -> None:
    save(tmp_path, kind)
    reader = backend(tmp_path, Precision.INT8)
    batch = tokens_of(tmp_path)

    together = vectors(reader, batch)

    assert [vectors(reader, [tokens])[0] for tokens in batch] == together
    assert vectors(reader, batch[::-1])[::-1] == together
    assert 0 <= reader.info.agreement <= 1


@pytest.mark.slow
def test_missing_separator_is_refused(tmp_path: Path) -> None:
    save(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"sep_token": {"content": "<sep>"}}))

    with pytest.raises(ConfigError, match="<sep>"):
        backend(tmp_path)


@pytest.mark.parametrize(
    ("ids", "start"),
    [([1, 5, 2, 6, 2], 3), ([1, 5, 2, 2, 6, 2], 4), ([1, 5], 2), ([1, 5, 2], 3), ([], 0)],
)
def test_second_text_begins_behind_the_first_separators(ids: list[int], start: int) -> None:
    assert start == find_second_text(np.array(ids, np.int32), separator=2)


LOGITS = st.integers(2, 45).flatmap(
    lambda size: st.lists(st.lists(st.integers(-9, 9), min_size=size, max_size=size), min_size=2, max_size=2)
)


@given(LOGITS, st.integers(1, 45))
def test_best_span_is_the_best_of_all(logits: list[list[int]], start: int) -> None:
    start_logits, end_logits = (np.array(row, np.float32) for row in logits)
    size = len(start_logits)
    spans = [
        (start_logits[first] + end_logits[last], first, last)
        for first in range(start, size - 1)
        for last in range(first, min(first + MAX_ANSWER_TOKENS, size - 1))
    ]
    best = max((score for score, _, _ in spans), default=-np.inf)

    first, last, likelihood = best_span(start_logits, end_logits, start).tolist()

    if best < start_logits[0] + end_logits[0]:
        assert [0, 0, 0] == [first, last, likelihood]
    elif best > start_logits[0] + end_logits[0]:
        assert (best, first, last) in spans
        assert 0 < likelihood <= 1


def test_spans_agree_when_they_share_a_token() -> None:
    one, near, far = (np.array(span, np.float32) for span in ([3, 5, 0.9], [5, 6, 0.4], [6, 7, 0.9]))

    assert have_same_words(one, near)
    assert not have_same_words(one, far)
