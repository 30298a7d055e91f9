"""Hugging Face sequence-to-sequence models, tiny and random, as directories like those of the hub."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from sentencepiece import SentencePieceTrainer
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import (
    AutoModelForSeq2SeqLM,
    M2M100Config,
    M2M100ForConditionalGeneration,
    MarianConfig,
    MarianMTModel,
    T5Config,
    T5ForConditionalGeneration,
)

from stream_infer.engine.backend import Backend, load_backend
from stream_infer.engine.directions import find_directions
from stream_infer.engine.marian_packing import can_be_packed
from stream_infer.engine.sources import resolve
from stream_infer.engine.specs import ModelKind, ModelSpec, Precision
from stream_infer.engine.streams import one_core
from stream_infer.engine.tokenization import load_tokenizer
from stream_infer.engine.translation_tokens import load
from stream_infer.engine.translators import Seq2SeqTranslator
from stream_infer.errors import ConfigError
from stream_infer.schemas import Work

WORDS = [f"w{number}" for number in range(40)]
SPECIALS = ["<pad>", "</s>", "<unk>"]
LANGUAGES = ["eng_Latn", "por_Latn", "deu_Latn"]
TEXTS = ["w1 w2 w3", "w4", "w9 w8 w7", "w5 w5 w5 w5 w5 w5", "w1 w2"]
SIZES: dict[str, Any] = {
    "d_model": 16,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_ffn_dim": 24,
    "decoder_ffn_dim": 24,
}
HEADS: dict[str, Any] = {
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "max_position_embeddings": 64,
}
IDS: dict[str, Any] = {"pad_token_id": 0, "eos_token_id": 1}

Builder = Callable[[Path], str]


def write_tokenizer(directory: Path, extra: Sequence[str] = ()) -> int:
    """Write a `tokenizer.json` that knows whole words; return the size of its vocabulary."""
    tokens = [*SPECIALS, *WORDS]
    table = {token: place for place, token in enumerate(tokens)}
    tokenizer = Tokenizer(WordLevel(table, unk_token="<unk>"))  # noqa: S106  # a token of the vocabulary
    tokenizer.pre_tokenizer = WhitespaceSplit()
    tokenizer.add_special_tokens([*SPECIALS, *extra])
    tokenizer.save(str(directory / "tokenizer.json"))
    return int(tokenizer.get_vocab_size())


def save(model: Any, directory: Path) -> None:
    """Save a random model whose weights are large enough for its tokens to differ."""
    torch.manual_seed(7)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.6)
    model.save_pretrained(directory)


def build_t5(directory: Path) -> str:
    size = write_tokenizer(directory)
    config = T5Config(vocab_size=size, d_model=16, d_kv=8, d_ff=24, num_layers=2, num_heads=2, **IDS)
    config.decoder_start_token_id = 0
    config.task_specific_params = {"translation_en_to_de": {"prefix": "w30 w31 "}}
    save(T5ForConditionalGeneration(config), directory)
    return "en-de"


def build_m2m(directory: Path) -> str:
    size = write_tokenizer(directory, LANGUAGES)
    config = M2M100Config(vocab_size=size, decoder_start_token_id=1, bos_token_id=0, **SIZES, **HEADS, **IDS)
    save(M2M100ForConditionalGeneration(config), directory)
    return "eng_Latn-por_Latn"


def build_marian(directory: Path) -> str:
    """A Marian model comes with sentencepiece files and a table of ids instead of a `tokenizer.json`."""
    pieces = io.BytesIO()
    lines = iter([" ".join(WORDS)] * 20)
    SentencePieceTrainer.train(
        sentence_iterator=lines, model_writer=pieces, vocab_size=30, hard_vocab_limit=False, minloglevel=2
    )
    for name in ("source.spm", "target.spm"):
        (directory / name).write_bytes(pieces.getvalue())
    marks = [
        "</s>",
        "<unk>",
        *(f"\u2581{word}" for word in WORDS),
        *"w0123456789",
        "\u2581",
        "\u2581w",
        "<pad>",
    ]
    table = {piece: place for place, piece in enumerate(marks)}
    (directory / "vocab.json").write_text(json.dumps(table), encoding="utf-8")
    languages = {"source_lang": "en", "target_lang": "pt"}
    (directory / "tokenizer_config.json").write_text(json.dumps(languages), encoding="utf-8")
    pad = len(table) - 1
    own: dict[str, Any] = {
        "pad_token_id": pad,
        "decoder_start_token_id": pad,
        "eos_token_id": 0,
        "forced_eos_token_id": None,
    }
    config = MarianConfig(vocab_size=len(table), **SIZES, **HEADS, **own)
    model = MarianMTModel(config)
    model.generation_config.bad_words_ids = [[pad]]
    save(model, directory)
    return "en-pt"


@pytest.fixture(params=[build_t5, build_m2m, build_marian], ids=["t5", "m2m", "marian"])
def model(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, str]:
    return tmp_path, request.param(tmp_path)


def spec(directory: Path, precision: Precision = Precision.FP32, num_beams: object = 1) -> ModelSpec:
    options = {"min_agreement": 0.0, "num_beams": num_beams}
    return ModelSpec("m", ModelKind.TRANSLATE, f"path:{directory}", precision, "cpu", options)


def run(backend: Backend, directory: Path, texts: Sequence[str], option: str) -> list[str | None]:
    tokenizer = load_tokenizer(resolve(f"path:{directory}"), ModelKind.TRANSLATE)
    tokens = tokenizer.encode([Work("m", text, option=option) for text in texts])
    return [output.text for output in backend.run(tokens, [option] * len(texts))]


@pytest.mark.slow
@pytest.mark.parametrize("beams", [1, 3])
def test_tokens_are_those_of_generate(model: tuple[Path, str], beams: int) -> None:
    """Each text alone, by transformers' own generation."""
    directory, option = model
    backend = load_backend(spec(directory, num_beams=beams))
    source = resolve(f"path:{directory}")
    direction = find_directions(source)[option]
    network = AutoModelForSeq2SeqLM.from_pretrained(directory)
    vocabulary = backend._translators[option].vocabulary  # type: ignore[attr-defined]  # a translation backend
    for text in TEXTS:
        (tokens,) = load(source).encode([Work("m", text, option=option)])
        limit = 3 * len(tokens.ids) + 10
        with one_core():
            expected = network.generate(
                torch.tensor(tokens.ids[None], dtype=torch.int64),
                num_beams=beams,
                length_penalty=1.0,
                early_stopping=False,
                do_sample=False,
                max_new_tokens=limit,
                forced_bos_token_id=direction.first,
            )[0, 1:]
        ids = [int(number) for number in expected if number != network.config.eos_token_id]
        assert vocabulary.decode([ids])[0] == backend.run([tokens], [option])[0].text


@pytest.mark.slow
@pytest.mark.parametrize(
    ("precision", "beams"), [(Precision.FP32, 1), (Precision.INT8, 1), (Precision.INT8, 3)]
)
def test_a_text_is_translated_alike_alone_and_among_others(
    model: tuple[Path, str], precision: Precision, beams: int
) -> None:
    directory, option = model
    backend = load_backend(spec(directory, precision, beams))
    together = run(backend, directory, TEXTS * 2, option)

    assert together[:5] == together[5:]
    assert together[:5] == [run(backend, directory, [text], option)[0] for text in TEXTS]


@pytest.mark.parametrize("beams", [0, -1, "two", 1.5])
def test_a_number_of_beams_is_a_positive_integer(tmp_path: Path, beams: object) -> None:
    build_marian(tmp_path)
    with pytest.raises(ConfigError, match="num_beams must be a positive integer"):
        load_backend(spec(tmp_path, num_beams=beams))


def test_the_direction_decides_prefix_and_first_token(tmp_path: Path) -> None:
    build_m2m(tmp_path)
    source = resolve(f"path:{tmp_path}")
    directions = find_directions(source)

    assert 6 == len(directions)
    assert ((43,), 44) == (directions["eng_Latn-por_Latn"].id_prefix, directions["eng_Latn-por_Latn"].first)
    (tokens,) = load(source).encode([Work("m", "w0 w1", option="eng_Latn-deu_Latn")])
    assert [43, 3, 4, 1] == tokens.ids.tolist()


def test_a_task_prefix_stands_before_the_text(tmp_path: Path) -> None:
    build_t5(tmp_path)
    (tokens,) = load(resolve(f"path:{tmp_path}")).encode([Work("m", "w0", option="en-de")])
    assert [33, 34, 3, 1] == tokens.ids.tolist()


def test_several_targets_of_a_marian_model_are_directions(tmp_path: Path) -> None:
    build_marian(tmp_path)
    table = json.loads((tmp_path / "vocab.json").read_text(encoding="utf-8"))
    table |= {">>pt<<": len(table), ">>es<<": len(table) + 1}
    (tmp_path / "vocab.json").write_text(json.dumps(table), encoding="utf-8")

    found = find_directions(resolve(f"path:{tmp_path}"))
    assert {"en-pt": (len(table) - 2,), "en-es": (len(table) - 1,)} == {
        name: direction.id_prefix for name, direction in found.items()
    }


def test_m2m_languages_are_numbered_behind_the_vocabulary(tmp_path: Path) -> None:
    build_marian(tmp_path)
    (tmp_path / "tokenizer_config.json").unlink()
    size = len(json.loads((tmp_path / "vocab.json").read_text(encoding="utf-8")))
    tokens = {"additional_special_tokens": ["__en__", {"content": "__pt__"}]}
    (tmp_path / "special_tokens_map.json").write_text(json.dumps(tokens), encoding="utf-8")

    assert size + 1 == find_directions(resolve(f"path:{tmp_path}"))["en-pt"].first


def test_a_model_that_states_no_languages_is_refused(tmp_path: Path) -> None:
    build_t5(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
    del config["task_specific_params"]
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")

    with pytest.raises(ConfigError, match="does not say which languages"):
        load_backend(spec(tmp_path))


@pytest.mark.slow
def test_a_marian_model_with_a_projection_of_its_own_is_left_to_transformers(tmp_path: Path) -> None:
    option = build_marian(tmp_path)
    model = AutoModelForSeq2SeqLM.from_pretrained(tmp_path)
    assert can_be_packed(model)
    model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.flip(0).clone())
    model.config.tie_word_embeddings = False
    model.save_pretrained(tmp_path)

    backend = load_backend(spec(tmp_path))
    assert isinstance(backend._translators[option], Seq2SeqTranslator)  # type: ignore[attr-defined]  # a translation one
    assert 5 == len(run(backend, tmp_path, TEXTS, option))
