"""What a loaded model can do, and how each kind of model is loaded. Imported by replicas only."""

from __future__ import annotations

import gc
import importlib
from collections.abc import Sequence
from typing import Protocol, cast

from stream_infer.engine.sources import ModelSource, SourceKind, resolve
from stream_infer.engine.specs import ModelKind, ModelSpec
from stream_infer.errors import ConfigError
from stream_infer.heap import heap_trimmer
from stream_infer.schemas import ModelInfo, Output, Tokens


class Backend(Protocol):
    """A model in a replica."""

    @property
    def info(self) -> ModelInfo:
        """What the model says of itself."""
        ...

    def run(self, batch: Sequence[Tokens], options: Sequence[str]) -> list[Output]:
        """Return the output of each item, in the same order; `options` are the work's, one an item.

        An item's output must not depend on the other items. Any exception fails the whole batch.
        """
        ...


_MODULES = {
    ModelKind.EMBED: "stream_infer.engine.encoder",
    ModelKind.CLASSIFY: "stream_infer.engine.encoder",
    ModelKind.TRANSLATE: "stream_infer.engine.translation",
    ModelKind.EXTRACT: "stream_infer.engine.reading",
    ModelKind.GENERATE: "stream_infer.engine.reading",
}


def load_backend(spec: ModelSpec) -> Backend:
    """Return the model that `spec` describes, loaded, quantised and checked.

    Each kind's module has a `load(spec, source) -> Backend`; a `python:` source brings its own
    `factory(spec) -> Backend`.

    Raises:
        ConfigError: the model cannot be loaded, or its 8-bit outputs agree too little with those
            at full precision.
    """
    source = resolve(spec.source)
    if source.kind is SourceKind.PYTHON:
        return _load_own(spec, source)
    module = importlib.import_module(_MODULES[spec.kind])
    backend = cast("Backend", module.load(spec, source))
    _give_memory_back()
    return backend


def _give_memory_back() -> None:
    """Give the system what loading took: the full precision of an 8-bit model, and what checking it used."""
    gc.collect()
    if (trim := heap_trimmer()) is not None:
        trim(0)


def _load_own(spec: ModelSpec, source: ModelSource) -> Backend:
    factory = getattr(importlib.import_module(source.module), source.factory, None)
    if not callable(factory):
        raise ConfigError(
            f"model {spec.name}: {source.text}: {source.module} has no factory {source.factory!r}"
        )
    return cast("Backend", factory(spec))
