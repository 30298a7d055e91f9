"""Tokenizers: limits, pairs, and the characters behind each token."""

import json
from pathlib import Path

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from stream_infer.engine.tokenization import ByteTokenizer, SubwordTokenizer, read_max_tokens
from stream_infer.errors import ConfigError
from stream_infer.schemas import Work

WORDS = ["[CLS]", "[SEP]", "[UNK]", *"abcdefghijklmnopqrstuvwxyz"]


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    tokenizer = Tokenizer(models.WordLevel({word: number for number, word in enumerate(WORDS)}, "[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 1), ("[CLS]", 0))
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "config.json").write_text(json.dumps({"max_position_embeddings": 40}))
    return tmp_path


def words(tokenizer: SubwordTokenizer, text: str, pair: str | None = None) -> list[str]:
    (tokens,) = tokenizer.encode([Work("m", text, pair)])
    return [WORDS[number] for number in tokens.ids]


def test_texts_keep_their_order_and_special_tokens(directory: Path) -> None:
    """Each piece of work has its own ids; none is padded to the longest."""
    tokenizer = SubwordTokenizer.from_directory(directory)

    first, second = tokenizer.encode([Work("m", "a b c"), Work("m", "z")])

    assert [0, 3, 4, 5, 1] == first.ids.tolist()
    assert [0, 28, 1] == second.ids.tolist()
    assert not first.truncated


def test_long_texts_are_cut_and_marked(directory: Path) -> None:
    """A cut text still ends as the model expects."""
    tokenizer = SubwordTokenizer.from_directory(directory)

    fitting, cut = tokenizer.encode([Work("m", "a " * 38), Work("m", "a " * 39)])

    assert (40, False) == (len(fitting.ids), fitting.truncated)
    assert (40, True) == (len(cut.ids), cut.truncated)
    assert 1 == cut.ids[-1]


def test_the_second_text_of_a_pair_gives_way(directory: Path) -> None:
    """A question stays whole however long the passage."""
    tokenizer = SubwordTokenizer.from_directory(directory)

    encoded = words(tokenizer, "q u", "p " * 60)

    assert ["[CLS]", "q", "u", "[SEP]"] == encoded[:4]
    assert 40 == len(encoded)


def test_an_overlong_first_text_of_a_pair_is_cut_too(directory: Path) -> None:
    """A question longer than the model can read is no reason to fail."""
    tokenizer = SubwordTokenizer.from_directory(directory)

    encoded = words(tokenizer, "q " * 60, "p " * 60)

    assert 40 == len(encoded)
    assert "p" in encoded


def test_spans_point_into_the_pair(directory: Path) -> None:
    """Only tokens of the second text have characters when there are two."""
    tokenizer = SubwordTokenizer.from_directory(directory)

    assert [(0, 0), (0, 0), (0, 0), (0, 1), (2, 3), (0, 0)] == tokenizer.spans(Work("m", "q", "x y"))
    assert [(0, 0), (0, 1), (2, 3), (0, 0)] == tokenizer.spans(Work("m", "x y"))


def test_bytes_are_tokens_where_there_is_no_tokenizer() -> None:
    """Own backends read UTF-8."""
    short, long = ByteTokenizer(4).encode([Work("m", "né"), Work("m", "abcde")])

    assert "né".encode() == bytes(short.ids.tolist())
    assert (b"abcd", True) == (bytes(long.ids.tolist()), long.truncated)


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, 512),
        ({"config.json": {"max_position_embeddings": 128}}, 128),
        ({"config.json": {"model_type": "roberta", "max_position_embeddings": 514, "pad_token_id": 1}}, 512),
        (
            {
                "config.json": {"max_position_embeddings": 512},
                "sentence_bert_config.json": {"max_seq_length": 256},
            },
            256,
        ),
        ({"config.json": {}, "tokenizer_config.json": {"model_max_length": 10**30}}, 512),
    ],
)
def test_the_limit_is_the_least_that_the_files_state(
    tmp_path: Path, files: dict[str, dict[str, object]], expected: int
) -> None:
    """Limits that mean "none" are ignored, and offsets of positions are taken off."""
    for name, content in files.items():
        (tmp_path / name).write_text(json.dumps(content))

    assert expected == read_max_tokens(tmp_path)


def test_a_model_without_a_tokenizer_is_refused(tmp_path: Path) -> None:
    """The error says which file is missing."""
    with pytest.raises(ConfigError, match=r"no tokenizer\.json"):
        SubwordTokenizer.from_directory(tmp_path)
