"""Training of the default model: which texts are trained on, and what is saved."""

import dataclasses
import hashlib
import io
import json
import tarfile
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import AutoModel, BertConfig

from stream_infer.errors import ConfigError
from stream_infer.training import data, sentiment
from stream_infer.training.classifier import Base, Classifier, Example, tokenise
from stream_infer.training.data import RatedText
from stream_infer.training.sentiment import TrainReport, TrainSettings

ARTEFACT = Path(sentiment.__file__).parents[1] / "engine" / "builtin" / "sentiment"
ARTEFACT_LIMIT_BYTES = 3_000_000
WORDS = ("good", "bad", "plain", "film", "book", "very", "not", "a")
ratings = st.floats(-4, 4)


@given(st.text())
def test_a_text_is_test_by_the_first_byte_of_its_hash(text: str) -> None:
    is_test = hashlib.sha256(text.encode()).digest()[0] < 51

    assert is_test == (data.part_of(text) == "test")


@given(st.lists(st.text(max_size=8), max_size=30))
def test_every_text_is_tested_or_may_be_trained_on_and_none_is_both(texts: list[str]) -> None:
    rows = [RatedText(text, 0.0, "tweets") for text in texts]
    trained = data.select(rows, "train", "validation")
    tested = data.select(rows, "test")

    assert not {data.as_model_sees(row.text) for row in trained} & {
        data.as_model_sees(row.text) for row in tested
    }
    assert [row for row in rows if data.part_of(row.text) == "test"] == tested


def test_a_text_that_looks_like_a_test_text_to_the_model_is_not_trained_on() -> None:
    tested = next(text for text in spellings("a very good film") if data.part_of(text) == "test")
    twin = next(text for text in spellings("a very good film") if data.part_of(text) == "train")
    rows = [RatedText(text, 1.0, "tweets") for text in (tested, twin)]

    assert [] == data.select(rows, "train")


def spellings(text: str) -> list[str]:
    return [text[:cut].upper() + text[cut:] for cut in range(len(text))]


@pytest.mark.parametrize(
    ("rating", "label"),
    [(-4, "negative"), (-0.51, "negative"), (-0.5, "neutral"), (0.5, "neutral"), (0.51, "positive")],
)
def test_the_mean_rating_sets_the_label(rating: float, label: str) -> None:
    assert label == data.LABELS[RatedText("text", rating, "tweets").label]


@given(st.lists(ratings, min_size=1), st.floats(0.01, 2))
def test_soft_labels_are_chances_and_favour_the_side_of_the_rating(means: list[float], spread: float) -> None:
    labels = sentiment.soft_labels(torch.tensor(means), spread)

    assert torch.allclose(torch.ones(len(means)), labels.sum(-1))
    assert bool((labels >= -1e-6).all())
    for mean, (negative, _, positive) in zip(means, labels.tolist(), strict=True):
        assert (mean >= 0) == (positive >= negative) or abs(mean) < 1e-6 or positive == negative


@given(ratings)
def test_a_narrow_spread_gives_hard_labels(rating: float) -> None:
    soft = sentiment.soft_labels(torch.tensor([rating]), 1e-4)[0]

    is_near_a_bound = abs(abs(rating) - data.NEUTRAL_BOUND) < 1e-3
    assert is_near_a_bound or RatedText("text", rating, "tweets").label == int(soft.argmax())


def archive(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


@pytest.fixture
def tiny_archive(tmp_path: Path) -> Path:
    inner = {
        f"hutto_ICWSM_2014/{source}_GroundTruth.txt": (
            f"1_1\t-0.9\t bad {source}\r\n2\t0.5\tcaf\u00e9\ta\r\n".encode()
        )
        for source in data.SOURCES
    }
    resources = "vaderSentiment-3.3.2/additional_resources"
    path = tmp_path / data.ARCHIVE_NAME
    path.write_bytes(archive({f"{resources}/hutto_ICWSM_2014.tar.gz": archive(inner)}))
    return path


def test_rows_are_read_as_they_stand(tiny_archive: Path) -> None:
    sha256 = hashlib.sha256(tiny_archive.read_bytes()).hexdigest()
    rows = data.read_archive(tiny_archive, sha256)

    assert 2 * len(data.SOURCES) == len(rows)
    assert RatedText(" bad tweets", -0.9, "tweets") == rows[0]
    assert RatedText("caf\u00e9\ta", 0.5, "tweets") == rows[1]


def test_bytes_that_are_not_utf8_do_not_lose_the_row() -> None:
    assert [RatedText("a\ufffdb", 1.0, "tweets")] == data.parse_ratings(b"1\t1.0\ta\xffb\r\n", "tweets")


def test_another_archive_is_refused(tiny_archive: Path) -> None:
    with pytest.raises(ConfigError, match="SHA-256"):
        data.load_ratings(tiny_archive.parent)


def test_an_archive_without_the_ratings_is_refused(tmp_path: Path) -> None:
    path = tmp_path / data.ARCHIVE_NAME
    path.write_bytes(archive({"README": b""}))

    with pytest.raises(ConfigError, match="has no"):
        data.read_archive(path, hashlib.sha256(path.read_bytes()).hexdigest())


@given(st.lists(st.integers(1, 40), min_size=1, max_size=200), st.integers(1, 16))
def test_an_epoch_holds_every_example_once(lengths: list[int], batch_size: int) -> None:
    examples = [Example([1] * length, 0, float(index)) for index, length in enumerate(lengths)]
    settings = TrainSettings(epochs=1, batch_size=batch_size)
    batches = list(sentiment.plan_batches(examples, settings))

    assert all(0 < len(batch) <= batch_size for batch in batches)
    assert list(range(len(lengths))) == sorted(int(row.rating) for batch in batches for row in batch)
    assert batches == list(sentiment.plan_batches(examples, settings))


def tiny_base() -> Base:
    torch.manual_seed(7)
    words = {word: index for index, word in enumerate(("[PAD]", "[CLS]", "[SEP]", "[UNK]", *WORDS))}
    tokenizer = Tokenizer(models.WordPiece(words, unk_token="[UNK]"))  # noqa: S106 - a token of text
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 2), ("[CLS]", 1))
    config = BertConfig(
        vocab_size=len(words),
        hidden_size=8,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
    )
    encoder = AutoModel.from_config(config, add_pooling_layer=False)  # type: ignore[no-untyped-call] # theirs
    return Base(encoder, tokenizer, "tiny", "0")


def rated_texts() -> list[RatedText]:
    return [
        RatedText(f"{first} {second} {third}", {"good": 2.0, "bad": -2.0}.get(first, 0.0), "tweets")
        for first in WORDS[:3]
        for second in WORDS[3:]
        for third in WORDS
    ][::4]


def train(**changes: Any) -> TrainReport:
    settings = TrainSettings(**{"epochs": 1, "batch_size": 12, "rank": 2, "alpha": 4} | changes)
    return sentiment.train_sentiment(settings, rated_texts(), base=tiny_base())


def test_training_again_with_the_same_seed_gives_the_same_tensors() -> None:
    first, second, other = train(), train(), train(seed=14)

    assert first.losses == second.losses
    assert first.tensors.keys() == second.tensors.keys()
    assert all(torch.equal(tensor, second.tensors[name]) for name, tensor in first.tensors.items())
    assert first.losses != other.losses


def test_training_lowers_the_loss() -> None:
    losses = train(epochs=12, learning_rate=0.02).losses

    assert sum(losses[-2:]) < sum(losses[:2])


def test_training_leaves_the_process_as_it_was() -> None:
    threads, deterministic = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    train(threads=1)

    assert (threads, deterministic) == (torch.get_num_threads(), torch.are_deterministic_algorithms_enabled())


def test_scores_are_those_of_the_saved_tensors(tmp_path: Path) -> None:
    """Merging the file into a fresh encoder, as a reader of the card would, gives the same scores."""
    report = train(epochs=12, learning_rate=0.02)
    sentiment.save(report, tmp_path)
    card = json.loads((tmp_path / "card.json").read_text(encoding="utf-8"))
    tensors = load_file(tmp_path / "model.safetensors")
    base = tiny_base()
    for name, module in base.encoder.named_modules():
        if f"{name}.lora_A" in tensors:
            down, up = tensors.pop(f"{name}.lora_A").float(), tensors.pop(f"{name}.lora_B").float()
            module.weight.data += card["scale"] * (up @ down)
    merged = Classifier(base.encoder, card["dimension"], dropout=0.0)
    head = {name.removeprefix("head."): tensors.pop(name) for name in ("head.weight", "head.bias")}
    merged.head.load_state_dict(head)
    examples = tokenise(data.select(rated_texts(), "test"), base.tokenizer, card["max_length"])

    assert {} == tensors
    assert report.scores == sentiment.evaluate_sentiment(merged, examples)
    assert dataclasses.asdict(report.scores) == card["scores"]["test"]


def test_the_shipped_artefact_is_small_and_is_what_its_card_says() -> None:
    card = json.loads((ARTEFACT / "card.json").read_text(encoding="utf-8"))
    tensors = load_file(ARTEFACT / "model.safetensors")
    adapters = {name for name in tensors if not name.startswith("head.")}

    assert ARTEFACT_LIMIT_BYTES >= sum(path.stat().st_size for path in ARTEFACT.iterdir())
    assert sentiment.FORMAT == card["format"]
    assert list(data.LABELS) == card["labels"]
    assert card["alpha"] / card["rank"] == card["scale"]
    assert (len(card["labels"]), card["dimension"]) == tensors["head.weight"].shape
    assert {name.replace("lora_A", "lora_B") for name in adapters if name.endswith("lora_A")} == {
        name for name in adapters if name.endswith("lora_B")
    }
    assert {torch.float16} == {tensors[name].dtype for name in adapters}
    assert {card["rank"]} == {min(tensors[name].shape) for name in adapters}


def test_the_shipped_artefact_was_trained_with_the_default_settings() -> None:
    card = json.loads((ARTEFACT / "card.json").read_text(encoding="utf-8"))

    assert "test" in card["scores"]
    assert TrainSettings() == TrainSettings(
        **{name: value for name, value in card["training"].items() if name != "texts"}
    )
