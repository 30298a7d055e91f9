"""Smoothed layers: closer where a few columns of their inputs are wide."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from stream_infer.engine.quantization import Int8Linear
from stream_infer.engine.smoothing import WidthWatch, smoothing_factors


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(5)


def lopsided(rows: int) -> torch.Tensor:
    """Return rows of 96 numbers, three of which are fifty times as wide as the others."""
    batch = torch.randn(rows, 96)
    batch[:, [3, 40, 77]] *= 50.0
    return batch


@torch.inference_mode()
def test_smoothing_brings_a_layer_closer_to_full_precision() -> None:
    layer, batch = nn.Linear(96, 64), lopsided(200)
    expected = layer(batch)
    watch = WidthWatch(nn.Sequential(layer))
    layer(lopsided(50))
    widths = watch.stop()[layer]

    rough = (Int8Linear.of(layer)(batch) - expected).square().mean()
    smooth = (Int8Linear.of(layer, widths=widths)(batch) - expected).square().mean()

    assert smooth < rough / 3


@torch.inference_mode()
def test_a_watch_keeps_the_greatest_of_all_calls_and_ends() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Tanh())
    watch = WidthWatch(model)
    model(torch.tensor([[1.0, -3.0]]))
    model(torch.tensor([[[-2.0, 0.0]]]))
    widths = watch.stop()
    model(torch.tensor([[9.0, 9.0]]))

    assert [[2.0, 3.0]] == [width.tolist() for width in widths.values()]


def test_a_column_that_is_never_used_has_a_factor_too() -> None:
    factors = smoothing_factors(torch.tensor([0.0, 1.0]), torch.tensor([[0.0, 4.0]]))

    assert factors.isfinite().all()
    assert factors.min() > 0
    assert factors[1] == pytest.approx(0.5)
