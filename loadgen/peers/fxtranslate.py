"""fxtranslate, the Rust engine of Firefox' translations, on the packaged model's own files.

`translate_long`, which splits into sentences, is what its documentation calls the right default. An
engine is bound to the thread that made it, so each core has a process with one.
"""

from __future__ import annotations

from fxtranslate import Translator

from loadgen.peers.halves import Shared, Translate
from loadgen.peers.setup import Run, Setup
from stream_infer.engine.directions import find_tiny_models
from stream_infer.engine.sources import resolve


def load(setup: Setup) -> Run:
    """Return an engine with the lexical shortlist for each thread."""
    return Shared(make, setup.model, setup.threads)


def make(model: str) -> Translate:
    """Return an engine, of the model's first direction."""
    files = next(iter(find_tiny_models(resolve(model)).values()))
    vocabulary = files.vocabulary.read_bytes()
    shortlist = files.shortlist.read_bytes() if files.shortlist else None
    translator = Translator(files.weights.read_bytes(), vocabulary, vocabulary, shortlist)
    translate: Translate = translator.translate_long
    return translate
