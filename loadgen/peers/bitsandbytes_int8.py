"""bitsandbytes as shipped: `load_in_8bit` through transformers, in the same pipeline as at full precision.

With its default threshold of 6, as its documentation has it ("8-bit quantization").
"""

from __future__ import annotations

from transformers import BitsAndBytesConfig

from loadgen.peers.setup import Run, Setup
from loadgen.peers.transformers_pipeline import pipeline_of


def load(setup: Setup) -> Run:
    """Return the pipeline over 8-bit layers."""
    config = BitsAndBytesConfig(load_in_8bit=True)  # type: ignore[no-untyped-call] # publishes no types here
    return pipeline_of(setup, quantization_config=config)
