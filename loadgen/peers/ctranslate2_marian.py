"""CTranslate2's translator in 8 bits, greedy.

As its documentation has it (opennmt.net/CTranslate2, "Performance tips"): `int8`, a beam of one, no
scores, batches counted in tokens, which `translate_batch` sorts by length itself, and for volume rather
more workers than threads of one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import ctranslate2
from ctranslate2.converters import TransformersConverter

from loadgen.peers.setup import NEW_TOKENS, Run, Setup
from loadgen.peers.tokens import load_tokenizer

CONVERTED: Final = "ctranslate2"
MAX_BATCH_TOKENS: Final = 2_048
END: Final = "</s>"


def prepare(setup: Setup) -> None:
    """Convert the model."""
    converter = TransformersConverter(setup.model)
    converter.convert(str(setup.made(CONVERTED)), quantization="int8", force=True)


def load(setup: Setup) -> Run:
    """Return the model as a translator whose translations all have `NEW_TOKENS`."""
    translator = ctranslate2.Translator(
        str(setup.made(CONVERTED)), compute_type="int8", inter_threads=setup.threads, intra_threads=1
    )
    tokenizer = load_tokenizer(setup)

    def run(texts: Sequence[str]) -> list[str]:
        found = translator.translate_batch(
            [[*pieces, END] for pieces in tokenizer.pieces(texts)],
            max_batch_size=MAX_BATCH_TOKENS,
            batch_type="tokens",
            beam_size=1,
            min_decoding_length=NEW_TOKENS,
            max_decoding_length=NEW_TOKENS,
        )
        return [" ".join(translation.hypotheses[0]) for translation in found]

    return run
