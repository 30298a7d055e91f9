"""transformers' greedy `generate` at full precision, on batches of 32 of like lengths."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

from loadgen.peers.setup import NEW_TOKENS, Run, Setup
from loadgen.peers.windows import places_by_length


def load(setup: Setup) -> Run:
    """Return the model as a translator whose translations all have `NEW_TOKENS`."""
    torch.set_num_threads(setup.threads)
    tokenizer = AutoTokenizer.from_pretrained(setup.model)
    model = AutoModelForSeq2SeqLM.from_pretrained(setup.model, dtype=torch.float32).to(setup.device).eval()

    def run(texts: Sequence[str]) -> list[str]:
        translations = [""] * len(texts)
        for places in places_by_length([text.split() for text in texts]):
            sources = [f"{texts[place]} {tokenizer.eos_token}" for place in places]
            batch = tokenizer(sources, return_tensors="pt", padding=True, return_token_type_ids=False)
            with torch.inference_mode():
                found = model.generate(
                    **batch.to(model.device),
                    num_beams=1,
                    do_sample=False,
                    min_new_tokens=NEW_TOKENS,
                    max_new_tokens=NEW_TOKENS,
                )
            decoded = tokenizer.batch_decode(found, skip_special_tokens=True)
            for place, translation in zip(places, decoded, strict=True):
                translations[place] = translation
        return translations

    return run
