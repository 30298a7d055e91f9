"""What to load: the description of a model that crosses from the parent to its replicas."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

COMPUTATION_VERSION: Final = 3
"""Raised whenever the engine makes other numbers of the same model: workers that share a cache may be of
two versions while one is rolled out, and results from the cache must be those that a worker would compute."""


class ModelKind(StrEnum):
    """What a model makes of its input."""

    EMBED = "embed"
    CLASSIFY = "classify"
    TRANSLATE = "translate"
    EXTRACT = "extract"
    GENERATE = "generate"


class Precision(StrEnum):
    """How weights are held and multiplied."""

    INT8 = "int8"
    BF16 = "bf16"
    FP32 = "fp32"


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """One model for a replica to load; `options` are the rest of its settings, by name."""

    name: str
    kind: ModelKind
    source: str
    precision: Precision
    device: str
    options: Mapping[str, object] = field(default_factory=dict)
