"""The built-in sentiment model, at 8 bits, on rated texts that it was never trained on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from stream_infer.engine.backend import load_backend
from stream_infer.engine.heads import load_head
from stream_infer.engine.sources import resolve
from stream_infer.engine.specs import ModelKind, ModelSpec, Precision
from stream_infer.engine.tokenization import load_tokenizer
from stream_infer.evaluation.examples import Example
from stream_infer.evaluation.scores import evaluate
from stream_infer.schemas import ClassifyBody, ResultBody, Task, Work
from stream_infer.text import prepare_text
from stream_infer.training.data import LABELS, load_ratings, select

pytestmark = [pytest.mark.model, pytest.mark.quality, pytest.mark.slow]

SOURCE = "builtin:sentiment"
BATCH = 64

Note = Callable[[str, object], None]


@pytest.mark.timeout(900)
def test_accuracy_on_the_held_out_texts(tmp_path: Path, record_property: Note) -> None:
    torch.set_num_threads(1)
    held_out = select(load_ratings(tmp_path), "test")
    works = [Work("sentiment", prepare_text(row.text)) for row in held_out]
    tokens = load_tokenizer(resolve(SOURCE)).encode(works)
    backend = load_backend(ModelSpec("sentiment", ModelKind.EMBED, SOURCE, Precision.INT8, "cpu"))
    head = load_head(resolve(SOURCE), ModelKind.EMBED)
    assert head is not None

    results: list[ResultBody | None] = []
    for start in range(0, len(tokens), BATCH):
        batch = tokens[start : start + BATCH]
        for output in backend.run(batch, [""] * len(batch)):
            assert output.vector is not None
            likelihoods = head.scores(output.vector)
            results.append({"label": head.labels[likelihoods.index(max(likelihoods))]})

    examples = [Example(ClassifyBody(row.text), (LABELS[row.label],)) for row in held_out]
    assert 4_795 == len(examples)
    scores = evaluate(Task.CLASSIFY, examples, results)
    record_property("accuracy", scores["accuracy"])
    record_property("macro_f1", scores["macro_f1"])
    assert scores["accuracy"] >= 0.74
