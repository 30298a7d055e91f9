"""The replica's side of extractive readers: question and passage in, the likeliest words out.

Spans and the score of "no answer" follow Devlin et al., "BERT: Pre-training of Deep Bidirectional
Transformers for Language Understanding", 2019, section 4.3 (SQuAD 2.0).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import AutoModelForQuestionAnswering
from transformers.utils import logging as transformers_logging

from stream_infer.engine.devices import pick_device, pick_dtype
from stream_infer.engine.fidelity import quantize_honestly
from stream_infer.engine.fused import quantize_encoder
from stream_infer.engine.packed import PackedEncoder
from stream_infer.engine.reading_sample import READINGS
from stream_infer.engine.smoothing import WidthWatch
from stream_infer.engine.sources import ModelSource
from stream_infer.engine.specs import ModelSpec, Precision
from stream_infer.engine.tokenization import SubwordTokenizer
from stream_infer.errors import ConfigError
from stream_infer.schemas import ModelInfo, Output, Tokens, Work

MAX_ANSWER_TOKENS: Final = 30

TokenIds = NDArray[np.int32]
Vector = NDArray[np.float32]


class ExtractionBackend:
    """A loaded question answering model."""

    def __init__(self, info: ModelInfo, reader: SpanReader) -> None:
        self.info = info
        self._reader = reader

    def run(self, batch: Sequence[Tokens], options: Sequence[str]) -> list[Output]:
        """Return float32 [first token, last token, likelihood from 0 to 1] for each pair, in order.

        Tokens count from the start of the whole input. [0, 0, 0] says that the passage holds no
        answer.
        """
        del options
        vectors = self._reader.read([tokens.ids for tokens in batch])
        return [
            Output(vector=vector, truncated=tokens.truncated)
            for vector, tokens in zip(vectors, batch, strict=True)
        ]


class SpanReader:
    """Finds the likeliest words in the second text of a pair; `separator` ends the first one."""

    def __init__(self, model: Any, head: nn.Module, separator: int) -> None:
        self._encoder = PackedEncoder(model.base_model)
        self._head = head
        self._separator = separator
        self._has_types = getattr(model.config, "type_vocab_size", 1) > 1

    @torch.inference_mode()
    def read(self, pairs: Sequence[TokenIds]) -> list[Vector]:
        """Return [first token, last token, likelihood] for each pair."""
        starts = [find_second_text(pair, self._separator) for pair in pairs]
        types = None
        if self._has_types:
            types = [
                (np.arange(len(pair)) >= start).astype(np.int32)
                for pair, start in zip(pairs, starts, strict=True)
            ]
        states = self._encoder.hidden(pairs, types)
        return [self._best_span(rows, start) for rows, start in zip(states, starts, strict=True)]

    def _best_span(self, states: Tensor, start: int) -> Vector:
        # The head runs on one pair at a time: its float products could differ with the number of rows.
        logits = self._head(states).float().cpu().numpy()
        return best_span(logits[:, 0], logits[:, 1], start)


def find_second_text(pair: TokenIds, separator: int) -> int:
    """Return where the second text begins: behind the first run of separators, or the end."""
    marks = pair == separator
    if not marks.any():
        return len(pair)
    behind = int(marks.argmax())
    while behind < len(pair) and marks[behind]:
        behind += 1
    return behind


def best_span(start_logits: Vector, end_logits: Vector, start: int) -> Vector:
    """Return the likeliest span of tokens from `start` up to the separator that ends the input.

    Likelihoods are over these tokens and the first of the input, which stands for "no answer". A
    span is at most `MAX_ANSWER_TOKENS` long; of equal ones the first wins.
    """
    places = np.array([0, *range(start, len(start_logits) - 1)])
    starts, ends = _softmax(start_logits[places]), _softmax(end_logits[places])
    likelihoods = np.triu(np.outer(starts[1:], ends[1:]))
    likelihoods -= np.triu(likelihoods, MAX_ANSWER_TOKENS)
    best = int(likelihoods.argmax()) if likelihoods.size else 0
    if not likelihoods.size or likelihoods.flat[best] < starts[0] * ends[0]:
        return np.zeros(3, np.float32)
    first, last = np.unravel_index(best, likelihoods.shape)
    return np.array([start + first, start + last, likelihoods[first, last]], np.float32)


def _softmax(logits: Vector) -> NDArray[np.float64]:
    powers = np.exp(logits.astype(np.float64) - logits.max())
    scaled: NDArray[np.float64] = powers / powers.sum()
    return scaled


def load(spec: ModelSpec, source: ModelSource) -> ExtractionBackend:
    """Return the question answering model that `spec` describes.

    Raises:
        ConfigError: it cannot be read, or its 8-bit answers agree too little with full precision.
    """
    device = pick_device(spec)
    directory = source.model_directory
    tokenizer = SubwordTokenizer.from_directory(directory)
    model = _read_model(spec, source).to(device, pick_dtype(spec.precision, device))
    head = getattr(model, "qa_outputs", None)
    if not isinstance(head, nn.Linear) or head.out_features != 2:  # noqa: PLR2004 - start and end
        raise ConfigError(f"model {spec.name} ({source.text}): its head does not score starts and ends")
    reader = SpanReader(model, head, _read_separator(spec, directory))
    agreement = 1.0
    if spec.precision is Precision.INT8:
        works = [Work(spec.name, question, pair=passage) for question, passage in READINGS]
        sample = [tokens.ids for tokens in tokenizer.encode(works)]
        watch = WidthWatch(model)
        agreement = quantize_honestly(
            spec, lambda: quantize_encoder(model, watch.stop()), lambda: reader.read(sample), have_same_words
        )
    info = ModelInfo(
        spec.name,
        source.text,
        source.revision,
        spec.precision.value,
        str(device),
        tokenizer.max_tokens,
        agreement=agreement,
    )
    return ExtractionBackend(info, reader)


def have_same_words(first: Vector, second: Vector) -> bool:
    """Say whether two spans share a token."""
    return bool(first[0] <= second[1] and second[0] <= first[1])


def _read_model(spec: ModelSpec, source: ModelSource) -> Any:
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call] # publishes no types here
    reader: Any = AutoModelForQuestionAnswering
    try:
        model = reader.from_pretrained(
            source.model_directory, use_safetensors=True, trust_remote_code=False, local_files_only=True
        )
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise ConfigError(f"model {spec.name} ({source.text}) cannot be loaded: {error}") from error
    return model.eval()


def _read_separator(spec: ModelSpec, directory: Path) -> int:
    """Return the token between the two texts, by the tokenizer's configuration."""
    path = directory / "tokenizer_config.json"
    config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    mark = config.get("sep_token", "[SEP]")
    content = mark["content"] if isinstance(mark, dict) else mark
    vocabulary = json.loads((directory / "tokenizer.json").read_text(encoding="utf-8"))
    for token in vocabulary.get("added_tokens", ()):
        if token["content"] == content:
            return int(token["id"])
    raise ConfigError(f"model {spec.name}: its tokenizer has no separator {content!r}")
