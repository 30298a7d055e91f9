"""A BERT-base with random weights: enough for time and memory, not for quality."""

from __future__ import annotations

import shutil
from typing import Final

import torch
from transformers import BertConfig, BertModel

from loadgen.peers.setup import Setup

SEED: Final = 7
_TOKENIZER: Final = ("tokenizer.json", "tokenizer_config.json", "sentence_bert_config.json", "vocab.txt")


def make(setup: Setup) -> None:
    """Write it to `setup.scratch`, with the tokenizer of the model in `setup.model`."""
    torch.manual_seed(SEED)
    # CTranslate2's converter asks for the kind of positions, which transformers 5 no longer writes.
    config = BertConfig.from_dict({"position_embedding_type": "absolute"})
    model = BertModel(config)  # type: ignore[no-untyped-call] # publishes no types here
    model.save_pretrained(setup.scratch)
    for name in _TOKENIZER:
        shutil.copy(setup.directory / name, setup.made(name))
