"""The replica's side of generative readers: prompts in, texts out, greedily."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM
from transformers.utils import logging as transformers_logging

from stream_infer.engine.causal import ATTENTION, SUPPORTED, CausalDecoder
from stream_infer.engine.devices import pick_device, pick_dtype
from stream_infer.engine.fidelity import quantize_honestly
from stream_infer.engine.generation_tokens import GenerationTokenizer, find_gguf
from stream_infer.engine.generation_tokens import load as load_tokenizer
from stream_infer.engine.gguf_model import load_gguf
from stream_infer.engine.greedy import Decoder, decode_greedily, follow
from stream_infer.engine.quantization import quantize
from stream_infer.engine.reading_sample import READINGS
from stream_infer.engine.seq2seq import Seq2SeqDecoder
from stream_infer.engine.sources import ModelSource
from stream_infer.engine.specs import ModelSpec, Precision
from stream_infer.errors import ConfigError
from stream_infer.schemas import ModelInfo, Output, Tokens, Work

DEFAULT_MAX_NEW_TOKENS: Final = 64
_SAMPLE_TOKENS: Final = 8

TokenIds = NDArray[np.int32]
Starter = Callable[[Sequence[TokenIds], int], Iterator[tuple[Sequence[int], Decoder]]]
"""Starts prompts, given how many tokens may follow; yields the places of those that decode together."""


class GenerationBackend:
    """A loaded generative model; `ends` are the tokens that end a text."""

    def __init__(
        self,
        info: ModelInfo,
        tokenizer: GenerationTokenizer,
        start: Starter,
        ends: frozenset[int],
        max_new_tokens: int,
    ) -> None:
        self.info = info
        self._tokenizer = tokenizer
        self._start = start
        self._ends = ends
        self._max_new_tokens = max_new_tokens

    @torch.inference_mode()
    def run(self, batch: Sequence[Tokens], options: Sequence[str]) -> list[Output]:
        """Return the text that follows each prompt, in order.

        With 8-bit weights on a CPU a text is the same in every batch. At other precisions sums
        may round differently beside other rows, so a token can change where two are likeliest by
        less than that rounding. A text that did not end within the limit is cut there and marked as
        truncated.
        """
        del options
        outputs: dict[int, Output] = {}
        for places, decoder in self._start([tokens.ids for tokens in batch], self._max_new_tokens):
            limits = [self._max_new_tokens] * len(places)
            for place, row in zip(places, decode_greedily(decoder, limits, self._ends), strict=True):
                text = self._tokenizer.decode(row.ids).strip()
                outputs[place] = Output(text=text, truncated=batch[place].truncated or row.is_cut)
        return [outputs[place] for place in range(len(batch))]


def load(spec: ModelSpec, source: ModelSource) -> GenerationBackend:
    """Return the causal or sequence-to-sequence model that `spec` describes.

    Raises:
        ConfigError: it cannot be read, its type is not supported, or its 8-bit tokens agree too
            little with full precision.
    """
    device = pick_device(spec)
    tokenizer = load_tokenizer(source)
    model = _read_model(spec, source).to(device, pick_dtype(spec.precision, device))
    start = _start_by_length(model) if model.config.is_encoder_decoder else _start_packed(model)
    ends = _read_ends(spec, model)
    agreement = 1.0
    if spec.precision is Precision.INT8:
        check = _TokenCheck(start, _sample_prompts(tokenizer), ends)
        # The head too: it holds a third of a small model's weights and rules the time of a step.
        agreement = quantize_honestly(spec, lambda: quantize(model, ()), check.tokens, int.__eq__)
    info = ModelInfo(
        spec.name,
        source.text,
        source.revision,
        spec.precision.value,
        str(device),
        tokenizer.max_tokens,
        agreement=agreement,
    )
    return GenerationBackend(info, tokenizer, start, ends, _max_new_tokens(spec))


def _start_packed(model: Any) -> Starter:
    model.set_attn_implementation(ATTENTION)

    def start(prompts: Sequence[TokenIds], limit: int) -> Iterator[tuple[Sequence[int], Decoder]]:
        yield range(len(prompts)), CausalDecoder(model, prompts, [limit] * len(prompts))

    return start


def _start_by_length(model: Any) -> Starter:
    def start(prompts: Sequence[TokenIds], limit: int) -> Iterator[tuple[Sequence[int], Decoder]]:
        del limit
        for length in sorted({len(prompt) for prompt in prompts}):
            places = [place for place, prompt in enumerate(prompts) if len(prompt) == length]
            ids = torch.from_numpy(np.stack([prompts[place] for place in places]).astype(np.int64))
            yield places, Seq2SeqDecoder(model, ids.to(model.device), None)

    return start


def _read_model(spec: ModelSpec, source: ModelSource) -> Any:
    if path := find_gguf(source):
        return load_gguf(path)
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call] # publishes no types here
    directory = source.model_directory
    fixed: dict[str, Any] = {"trust_remote_code": False, "local_files_only": True}
    try:
        config = AutoConfig.from_pretrained(directory, **fixed)
        if not config.is_encoder_decoder and config.model_type not in SUPPORTED:
            raise ConfigError(
                f"model {spec.name} ({source.text}): generative models of type {config.model_type!r} are"
                f" not supported; these are: {', '.join(sorted(SUPPORTED))}, and encoder-decoders"
            )
        reader: Any = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
        model = reader.from_pretrained(directory, use_safetensors=True, **fixed)
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise ConfigError(f"model {spec.name} ({source.text}) cannot be loaded: {error}") from error
    return model.eval()


def _read_ends(spec: ModelSpec, model: Any) -> frozenset[int]:
    """Return the tokens that end a text: a model may have several, for documents and for turns."""
    stated = getattr(model.generation_config, "eos_token_id", None)
    stated = model.config.eos_token_id if stated is None else stated
    if stated is None:
        raise ConfigError(f"model {spec.name}: its configuration names no token that ends a text")
    return frozenset(stated if isinstance(stated, list) else [stated])


def _max_new_tokens(spec: ModelSpec) -> int:
    limit = spec.options.get("max_new_tokens", DEFAULT_MAX_NEW_TOKENS)
    if not isinstance(limit, int) or limit < 1:
        raise ConfigError(f"model {spec.name}: max_new_tokens must be a positive integer, not {limit!r}")
    return limit


def _sample_prompts(tokenizer: GenerationTokenizer) -> list[TokenIds]:
    form = (
        "<|im_start|>user\n{passage}\n{question}<|im_end|>\n<|im_start|>assistant\n"
        if tokenizer.is_chat
        else "{passage}\nQuestion: {question}\nAnswer:"
    )
    works = [Work("", form.format(passage=passage, question=question)) for question, passage in READINGS]
    return [tokens.ids for tokens in tokenizer.encode(works)]


class _TokenCheck:
    """What a model says at each place of the answers that it gives at full precision.

    The first call makes those answers; every later one returns the likeliest token at each of their
    places, so one slip does not count for the rest of its answer.
    """

    def __init__(self, start: Starter, prompts: Sequence[TokenIds], ends: frozenset[int]) -> None:
        self._start = start
        self._prompts = prompts
        self._ends = ends
        self._answers: dict[int, list[int]] = {}

    @torch.inference_mode()
    def tokens(self) -> list[int]:
        """Return the tokens."""
        groups = self._start(self._prompts, _SAMPLE_TOKENS)
        if not self._answers:
            for places, decoder in groups:
                self._answers |= zip(places, self._answer(decoder, len(places)), strict=True)
            return list(chain.from_iterable(self._answers.values()))
        said = (follow(decoder, [self._answers[place] for place in places]) for places, decoder in groups)
        return list(chain.from_iterable(chain.from_iterable(said)))

    def _answer(self, decoder: Decoder, rows: int) -> list[list[int]]:
        decoded = decode_greedily(decoder, [_SAMPLE_TOKENS] * rows, self._ends)
        return [row.ids if row.is_cut else [*row.ids, min(self._ends)] for row in decoded]
