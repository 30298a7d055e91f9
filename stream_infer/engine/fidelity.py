"""The honesty check: what quantisation changed, measured on a packaged sample at every load."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, TypeVar

from stream_infer.engine.sample import SENTENCES
from stream_infer.engine.specs import ModelSpec
from stream_infer.errors import ConfigError

__all__ = ["SENTENCES", "quantize_honestly", "require_agreement"]

DEFAULT_MIN_AGREEMENT: Final = 0.9

T = TypeVar("T")


def quantize_honestly(
    spec: ModelSpec,
    quantize: Callable[[], None],
    outputs: Callable[[], Sequence[T]],
    agree: Callable[[T, T], bool],
) -> float:
    """Quantise a model in place and return the share of outputs that agree with those from before.

    1. `outputs` runs the sample at full precision;
    2. `quantize` changes the model;
    3. `outputs` runs the same sample again, and `agree` compares each pair (exact, quantised).

    Raises:
        ConfigError: the share is below the spec's `min_agreement`.
    """
    exact = outputs()
    quantize()
    quantised = outputs()
    matches = [agree(before, after) for before, after in zip(exact, quantised, strict=True)]
    agreement = sum(matches) / len(matches)
    require_agreement(spec, agreement)
    return agreement


def require_agreement(spec: ModelSpec, agreement: float) -> None:
    """Refuse a model whose 8-bit outputs agree with full precision on less than the set share."""
    floor = spec.options.get("min_agreement", DEFAULT_MIN_AGREEMENT)
    if not isinstance(floor, int | float):
        raise ConfigError(f"model {spec.name}: min_agreement must be a number, not {floor!r}")
    if agreement < floor:
        raise ConfigError(
            f"model {spec.name} ({spec.source}): its {spec.precision} outputs agree with full precision on"
            f" {agreement:.3f} of the sample, and min_agreement is {floor}; set precision to bf16 or fp32"
        )
