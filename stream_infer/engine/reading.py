"""Readers for replicas: extractive models and generative ones."""

from __future__ import annotations

from stream_infer.engine import extraction, generation
from stream_infer.engine.sources import ModelSource
from stream_infer.engine.specs import ModelKind, ModelSpec


def load(spec: ModelSpec, source: ModelSource) -> extraction.ExtractionBackend | generation.GenerationBackend:
    """Return the reader that `spec` describes.

    Raises:
        ConfigError: it cannot be read, or its 8-bit outputs agree too little with full precision.
    """
    if spec.kind is ModelKind.EXTRACT:
        return extraction.load(spec, source)
    return generation.load(spec, source)
