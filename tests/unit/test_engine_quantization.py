"""8-bit layers: bitsandbytes' weights, exact sums, and rows that do not see each other."""

import logging
from typing import Any

import bitsandbytes
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from stream_infer.engine import quantization
from stream_infer.engine.quantization import Int8Linear, quantize, quantize_rows


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(5)


def quantised(layer: nn.Linear, groups: int = 1, *, keep_float: bool = True) -> Int8Linear:
    return Int8Linear(*quantize_rows(layer.weight, groups), layer.bias, keep_float=keep_float)


def by_bitsandbytes(layer: nn.Linear, inputs: Tensor) -> Tensor:
    library: Any = bitsandbytes.nn  # publishes no types
    theirs = library.Linear8bitLt(
        layer.in_features, layer.out_features, bias=True, has_fp16_weights=False, threshold=0.0
    )
    weight = layer.weight.detach().clone()
    theirs.weight = library.Int8Params(weight, requires_grad=False, has_fp16_weights=False)
    theirs.bias = nn.Parameter(layer.bias.detach().clone(), requires_grad=False)
    with torch.inference_mode():
        outputs: Tensor = theirs.to("cpu").eval()(inputs)
    return outputs


@pytest.mark.parametrize(("size", "outputs"), [(384, 96), (1536, 64), (8, 3)])
@torch.inference_mode()
def test_a_layer_is_bitsandbytes_but_finer(size: int, outputs: int) -> None:
    """On lopsided inputs a layer errs half as much as bitsandbytes' own, whose weights it has."""
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    layer = nn.Linear(size, outputs)
    layer.weight.div_(layer.weight.abs().amax(1, keepdim=True)).mul_(127).round_()
    inputs = functional.gelu(torch.randn(400, size)).half().float()
    exact = layer(inputs)

    errors = quantised(layer)(inputs) - exact
    their_errors = by_bitsandbytes(layer, inputs) - exact

    assert 0 < errors.std() < 0.6 * their_errors.std()


@torch.inference_mode()
def test_a_layer_stays_close_to_full_precision() -> None:
    """Eight bits cost about a hundredth of the outputs' spread."""
    layer = nn.Linear(384, 384)
    inputs = torch.randn(200, 384)
    exact = layer(inputs)

    error = (quantised(layer)(inputs) - exact).std() / exact.std()

    assert error < 0.02


@torch.inference_mode()
def test_a_wide_number_costs_only_its_group() -> None:
    """Where rows of weights and of inputs have one number that stands out, groups err far less."""
    layer, inputs = nn.Linear(1024, 64), torch.randn(100, 1024)
    layer.weight[:, 3] = 2.0
    inputs[:, 300] = 60.0
    exact = layer(inputs)

    whole, grouped = (Int8Linear.of(layer, in_groups=chosen)(inputs) - exact for chosen in (False, True))

    assert grouped.std() < 0.6 * whole.std()


@settings(max_examples=40)
@given(st.integers(1, 40), st.integers(0, 39))
@torch.inference_mode()
def test_a_row_does_not_depend_on_the_rows_beside_it(rows: int, chosen: int) -> None:
    """A row's output is bit-equal alone and among any number of others."""
    chosen %= rows
    generator = torch.Generator().manual_seed(rows)
    layer = quantised(nn.Linear(96, 48))
    inputs = torch.randn(rows, 96, generator=generator) * torch.rand(rows, 1, generator=generator) * 9

    assert torch.equal(layer(inputs)[chosen], layer(inputs[chosen : chosen + 1])[0])


@pytest.mark.parametrize("keep_float", [True, False])
@pytest.mark.parametrize(("size", "groups"), [(64, 1), (1040, 1), (1041, 1), (3000, 1), (1536, 12)])
@torch.inference_mode()
def test_integer_and_float_products_are_the_same(
    size: int, groups: int, *, keep_float: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both ways of multiplying give equal bits, also where sums are as large as they can be."""
    layer = nn.Linear(size, 4)
    layer.weight.fill_(1.0)
    layer.weight[1:] = torch.randn(3, size)
    inputs = torch.cat([torch.ones(1, size), torch.randn(20, size)])
    # With kernels neither would be run.
    monkeypatch.setattr(quantization, "load_kernels", lambda: None)
    outputs = {}
    for is_fast in (True, False):
        monkeypatch.setattr(quantization, "integer_products_are_fast", lambda is_fast=is_fast: is_fast)
        outputs[is_fast] = quantised(layer, groups, keep_float=keep_float)(inputs)

    expected = size * torch.ones(()) + layer.bias[0]
    assert torch.allclose(outputs[False][0, 0], expected)
    assert torch.allclose(outputs[True], outputs[False], rtol=1e-6, atol=1e-6)
    if size // groups <= 1040:
        assert torch.equal(outputs[True], outputs[False])


@torch.inference_mode()
def test_zeros_give_the_bias() -> None:
    """A row without any magnitude divides by nothing."""
    layer = nn.Linear(16, 4)

    assert torch.equal(layer.bias, quantised(layer)(torch.zeros(1, 16))[0])


@torch.inference_mode()
def test_the_inputs_type_and_shape_are_kept() -> None:
    """Leading dimensions and number type go through."""
    outputs = quantised(nn.Linear(16, 4))(torch.randn(2, 3, 16, dtype=torch.bfloat16))

    assert (2, 3, 4) == outputs.shape
    assert torch.bfloat16 is outputs.dtype


def test_heads_are_left_alone() -> None:
    """Only linear layers whose path holds no skipped part are replaced."""
    module = nn.ModuleDict(
        {"layer": nn.Linear(4, 4), "classifier": nn.Sequential(nn.Linear(4, 2)), "lm_head": nn.Linear(4, 2)}
    )
    quantize(module)

    assert isinstance(module["layer"], Int8Linear)
    assert isinstance(module["classifier"].get_submodule("0"), nn.Linear)
    assert isinstance(module["lm_head"], nn.Linear)


def test_compiling_is_still_possible() -> None:
    """Loading bitsandbytes without its compiled parts leaves torch.compile as it was."""
    before = torch.compile
    quantize_rows(torch.ones(2, 2))

    assert before is torch.compile
