"""Encoders for replicas: pooled embeddings, and classification models."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import AutoModel, AutoModelForSequenceClassification
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.utils import logging as transformers_logging

from stream_infer.engine.devices import pick_device, pick_dtype
from stream_infer.engine.embeddings import TokenIds
from stream_infer.engine.fidelity import SENTENCES, quantize_honestly
from stream_infer.engine.fused import quantize_encoder
from stream_infer.engine.heads import Head, load_head
from stream_infer.engine.lora import merge_adapters
from stream_infer.engine.packed import PackedEncoder
from stream_infer.engine.smoothing import WidthWatch
from stream_infer.engine.sources import ModelSource, SourceKind
from stream_infer.engine.specs import ModelKind, ModelSpec, Precision
from stream_infer.engine.tokenization import SubwordTokenizer
from stream_infer.errors import ConfigError
from stream_infer.schemas import ModelInfo, Output, Tokens, Work

LEAST_COSINE: Final = 0.98
"""Embeddings at least this close agree."""

Vector = NDArray[np.float16 | np.float32]
Compute = Callable[[Sequence[TokenIds]], list[Vector]]


class EncoderBackend:
    """A loaded encoder: a vector for each text, whatever the batch."""

    def __init__(self, info: ModelInfo, compute: Compute) -> None:
        self.info = info
        self._compute = compute

    def run(self, batch: Sequence[Tokens], options: Sequence[str]) -> list[Output]:
        """Return each text's embedding (float16) or logits (float32), in order."""
        del options
        vectors = self._compute([tokens.ids for tokens in batch]) if batch else []
        return [
            Output(vector=vector, truncated=tokens.truncated)
            for vector, tokens in zip(vectors, batch, strict=True)
        ]


class Embedder:
    """Embeddings, not normalised: the mean over a text's tokens, or the state of its first one."""

    def __init__(self, model: Any, *, is_mean: bool = True) -> None:
        self._encoder = PackedEncoder(model)
        self._is_mean = is_mean

    @torch.inference_mode()
    def __call__(self, texts: Sequence[TokenIds]) -> list[Vector]:
        """Return float16 [dimension] for each text."""
        # One text at a time: a mean over many rows at once could add up in another order.
        hidden = self._encoder.hidden(texts)
        pooled = [states.mean(0) if self._is_mean else states[0] for states in hidden]
        return list(torch.stack(pooled).half().cpu().numpy())


class Classifier:
    """The logits of a sequence classification model."""

    def __init__(self, model: Any) -> None:
        self._model = model
        base = model.base_model
        self._encoder = PackedEncoder(base)
        if self._encoder.is_packed:
            setattr(model, model.base_model_prefix, _FirstTokens(base))
        elif model.config.pad_token_id is None:
            # Models that read the last token look for padding; there is none here.
            model.config.pad_token_id = -1

    @torch.inference_mode()
    def __call__(self, texts: Sequence[TokenIds]) -> list[Vector]:
        """Return float32 [labels] for each text."""
        logits = self._packed(texts) if self._encoder.is_packed else [self._alone(text) for text in texts]
        return list(torch.cat(logits).float().cpu().numpy())

    def _packed(self, texts: Sequence[TokenIds]) -> list[Tensor]:
        # The head runs on one text at a time: its float products could differ with the number of rows.
        first = (states[None, :1] for states in self._encoder.hidden(texts))
        return [self._model(inputs_embeds=states).logits for states in first]

    def _alone(self, text: TokenIds) -> Tensor:
        ids = torch.from_numpy(text.astype(np.int64)).unsqueeze(0).to(self._model.device)
        logits: Tensor = self._model(input_ids=ids).logits
        return logits


class _FirstTokens(nn.Module):
    """Stands in for a model's encoder where its head is to run on states that are already there.

    The heads of all packable models read the first token's state, or what the pooler makes of it.
    """

    def __init__(self, encoder: Any) -> None:
        super().__init__()
        self.encoder = encoder  # what changes the model's parts must find this one too
        self.pooler = getattr(encoder, "pooler", None)

    def forward(self, *_: Any, inputs_embeds: Any, **__: Any) -> BaseModelOutputWithPooling:
        """Return the states that were given, as the encoder's output."""
        pooled = self.pooler(inputs_embeds) if self.pooler is not None else None
        return BaseModelOutputWithPooling(last_hidden_state=inputs_embeds, pooler_output=pooled)


def load(spec: ModelSpec, source: ModelSource) -> EncoderBackend:
    """Return the encoder that `spec` describes.

    Raises:
        ConfigError: it cannot be read, or its 8-bit outputs agree too little with full precision.
    """
    device = pick_device(spec)
    model = _read_model(spec, source, pick_dtype(spec.precision, device)).to(device)
    tokenizer = SubwordTokenizer.from_directory(source.model_directory)
    head = load_head(source, spec.kind)
    compute: Compute
    if spec.kind is ModelKind.CLASSIFY:
        compute = Classifier(model)
    else:
        compute = Embedder(model, is_mean=pools_by_mean(source.model_directory))
    agreement = _quantize(spec, model, compute, tokenizer, head) if spec.precision is Precision.INT8 else 1.0
    info = ModelInfo(
        name=spec.name,
        source=source.text,
        revision=source.revision,
        precision=spec.precision.value,
        device=str(device),
        max_tokens=tokenizer.max_tokens,
        dimension=model.config.hidden_size if spec.kind is ModelKind.EMBED else 0,
        agreement=agreement,
        labels=head.labels if head else (),
    )
    return EncoderBackend(info, compute)


def pools_by_mean(directory: Path) -> bool:
    """Say whether a model's embedding is the mean over its tokens (True) or its first token (False).

    Raises:
        ConfigError: the model's files ask for another pooling.
    """
    path = directory / "1_Pooling" / "config.json"
    settings = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    modes = {key.removeprefix("pooling_mode_") for key, value in settings.items() if value is True}
    modes &= {
        "cls_token",
        "max_tokens",
        "mean_tokens",
        "mean_sqrt_len_tokens",
        "weightedmean_tokens",
        "lasttoken",
    }
    if modes - {"mean_tokens", "cls_token"} or len(modes) > 1:
        raise ConfigError(f"{path}: pooling by {sorted(modes)} is not supported, only by mean or first token")
    return modes != {"cls_token"}


def _read_model(spec: ModelSpec, source: ModelSource, dtype: torch.dtype) -> Any:
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call] # publishes no types here
    reader: Any = AutoModelForSequenceClassification if spec.kind is ModelKind.CLASSIFY else AutoModel
    try:
        model = reader.from_pretrained(
            source.model_directory,
            dtype=dtype,
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=True,
        )
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise ConfigError(f"model {spec.name} ({source.text}) cannot be loaded: {error}") from error
    if spec.kind is ModelKind.EMBED and getattr(model, "pooler", None) is not None:
        model.pooler = None  # embeddings are means: what it computes is not read
    if source.kind is SourceKind.BUILTIN and source.directory is not None:
        merge_adapters(model, source.directory)
    return model.eval()


def _quantize(
    spec: ModelSpec, model: nn.Module, compute: Compute, tokenizer: SubwordTokenizer, head: Head | None
) -> float:
    sample = [tokens.ids for tokens in tokenizer.encode([Work(spec.name, text) for text in SENTENCES])]

    def agree(exact: Vector, quantised: Vector) -> bool:
        return have_same_label(exact, quantised, head) and (
            spec.kind is ModelKind.CLASSIFY or cosine(exact, quantised) >= LEAST_COSINE
        )

    watch = WidthWatch(model)
    return quantize_honestly(
        spec, lambda: quantize_encoder(model, watch.stop()), lambda: compute(sample), agree
    )


def have_same_label(first: Vector, second: Vector, head: Head | None) -> bool:
    """Say whether a head gives both vectors the same label; without a head they differ in none."""
    return head is None or np.argmax(head.scores(first)) == np.argmax(head.scores(second))


def cosine(first: Vector, second: Vector) -> float:
    """Return the cosine of the angle between two vectors."""
    left, right = first.astype(np.float64), second.astype(np.float64)
    return float(left @ right / (np.linalg.norm(left) * np.linalg.norm(right)))
