"""A Marian of the shape of Helsinki's English-German one, six and six layers, with random weights.

A word is a token. The end is never the likeliest token, so that every engine makes translations of
the same length; positions end where the service is to cut. What the decoder reads of the source is
made larger than chance would have it, or every text would get the same translation.
"""

from __future__ import annotations

import json
from typing import Any, Final

import torch
from tokenizers import AddedToken, Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import MarianConfig, MarianMTModel

from loadgen.peers.setup import NEW_TOKENS, Setup
from loadgen.texts import load_bodies

SEED: Final = 7
PIECES: Final = 58_100
END, UNKNOWN, PAD = "</s>", "<unk>", "<pad>"
_NEVER: Final = -1e4
_LOUDNESS: Final = 8.0


def make(setup: Setup) -> None:
    """Write model and tokenizer to `setup.scratch`."""
    torch.manual_seed(SEED)
    pieces = _pieces()
    end, pad = pieces.index(END), pieces.index(PAD)
    config = MarianConfig(
        vocab_size=len(pieces),
        max_position_embeddings=NEW_TOKENS + 1,
        d_model=512,
        encoder_layers=6,
        decoder_layers=6,
        encoder_attention_heads=8,
        decoder_attention_heads=8,
        encoder_ffn_dim=2048,
        decoder_ffn_dim=2048,
        activation_function="swish",
        scale_embedding=True,
        eos_token_id=end,
        pad_token_id=pad,
        decoder_start_token_id=pad,
        forced_eos_token_id=None,
    )
    model: Any = MarianMTModel(config)
    model.final_logits_bias[0, [end, pad]] = _NEVER
    for layer in model.get_decoder().layers:
        for projection in (layer.encoder_attn.v_proj, layer.encoder_attn.out_proj):
            projection.weight.data *= _LOUDNESS
    model.save_pretrained(setup.scratch)
    _save_tokenizer(pieces, setup)


def _pieces() -> list[str]:
    """Return the words of the texts, and as many that never come as the vocabulary needs."""
    words = sorted({word for body in load_bodies("classify", SEED) for word in str(body["text"]).split()})
    filling = (f"piece{place}" for place in range(PIECES))
    return [*[END, UNKNOWN, *words, *filling][:PIECES], PAD]


def _save_tokenizer(pieces: list[str], setup: Setup) -> None:
    numbers = {piece: place for place, piece in enumerate(pieces)}
    tokenizer = Tokenizer(WordLevel(numbers, unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    tokenizer.add_special_tokens([AddedToken(piece, special=True) for piece in (END, UNKNOWN, PAD)])
    tokenizer.save(str(setup.made("tokenizer.json")))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "source_lang": "en",
        "target_lang": "de",
        "eos_token": END,
        "unk_token": UNKNOWN,
        "pad_token": PAD,
        "model_max_length": NEW_TOKENS + 1,
    }
    setup.made("tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
