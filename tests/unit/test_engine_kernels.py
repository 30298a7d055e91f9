"""The C++ kernels: compiled once, found again, done without where they cannot be had."""

from pathlib import Path

import pytest
import torch
from structlog.testing import capture_logs
from torch import nn

from stream_infer.engine import kernels, quantization
from stream_infer.engine.kernels import compile_kernels, load_kernels, pack_weight, unpack_rows
from stream_infer.engine.quantization import Int8Linear

needs_kernels = pytest.mark.skipif(
    not kernels.has_instructions() or kernels.find_compiler() is None,
    reason="there is no compiler, or no processor for what it would make",
)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(7)


@pytest.fixture
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "stream-infer"


def without_kernels(layer: nn.Linear, monkeypatch: pytest.MonkeyPatch) -> Int8Linear:
    with monkeypatch.context() as patch:
        patch.setattr(quantization, "load_kernels", lambda: None)
        return Int8Linear.of(layer)


@needs_kernels
@pytest.mark.parametrize(("inputs", "outputs"), [(384, 1536), (1536, 384), (8, 3), (17, 70), (64, 64)])
@pytest.mark.parametrize("rows", [0, 1, 5, 7, 100, 300])
@torch.inference_mode()
def test_a_layer_has_the_same_bits_with_kernels_and_without(
    inputs: int, outputs: int, rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever its size, and for rows of zeros, of one sign and of many magnitudes."""
    layer = nn.Linear(inputs, outputs)
    batch = torch.randn(rows, inputs) * torch.logspace(-6, 6, rows)[:, None]
    batch[1:2] = 0.0
    batch[2:3].abs_()
    batch[3:4].abs_().neg_()

    assert load_kernels() is not None
    assert torch.equal(without_kernels(layer, monkeypatch)(batch), Int8Linear.of(layer)(batch))


@needs_kernels
@torch.inference_mode()
def test_threads_change_no_bit() -> None:
    """Work that is shared out gives what one thread gives."""
    layer = Int8Linear.of(nn.Linear(384, 1536))
    batch = torch.randn(200, 384)
    alone = layer(batch)
    try:
        torch.set_num_threads(3)
        assert torch.equal(alone, layer(batch))
    finally:
        torch.set_num_threads(1)


@pytest.mark.parametrize("has_kernels", [False, pytest.param(True, marks=needs_kernels)])
@torch.inference_mode()
def test_selected_outputs_are_those_of_the_whole_layer(
    *, has_kernels: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A shortlist's layer computes what the whole one computes for its words."""
    linear = nn.Linear(50, 200)
    layer = Int8Linear.of(linear) if has_kernels else without_kernels(linear, monkeypatch)
    outputs = torch.tensor([3, 7, 64, 130, 199])
    batch = torch.randn(4, 50)

    assert torch.equal(layer(batch)[:, outputs], layer.select(outputs)(batch))


def test_unpacking_inverts_packing() -> None:
    """Rows come out of the kernels' layout as they went in, padding aside."""
    weight = torch.randint(-127, 128, (130, 10), dtype=torch.int8)
    rows = torch.tensor([0, 64, 129])

    assert torch.equal(weight[rows], unpack_rows(pack_weight(weight), rows, 10))


@needs_kernels
@pytest.mark.slow
def test_kernels_are_compiled_once(empty_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second process finds what the first has compiled, and nothing else is left behind."""
    assert load_kernels.__wrapped__() is not None
    (made,) = empty_cache.iterdir()

    monkeypatch.setattr(kernels, "compile_kernels", lambda _: pytest.fail("compiled again"))

    assert load_kernels.__wrapped__() is not None
    assert made.name.startswith("kernels-")


@pytest.mark.parametrize("fault", ["no compiler", "a compiler that fails", "no place for the result"])
def test_without_kernels_there_is_a_warning(
    fault: str,
    empty_cache: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A start goes on without them, says why, and leaves nothing behind."""
    if fault == "no place for the result":
        empty_cache.write_text("a file in the directory's place")
    else:
        monkeypatch.setenv("PATH", str(tmp_path))
    if fault == "a compiler that fails":
        (tmp_path / "g++").write_text("#!/bin/sh\nexit 1\n")
        (tmp_path / "g++").chmod(0o755)

    with capture_logs() as logs:
        assert compile_kernels(empty_cache / "kernels.so") is None
    assert ["kernels_not_usable"] == [entry["event"] for entry in logs]
    assert not empty_cache.is_dir() or not list(empty_cache.iterdir())


@needs_kernels
def test_kernels_that_cannot_be_loaded_are_done_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What another system has compiled into a shared cache does not stop the start."""
    broken = tmp_path / "kernels.so"
    broken.write_bytes(b"not a library")
    monkeypatch.setattr(kernels, "compile_kernels", lambda _: broken)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))

    with capture_logs() as logs:
        assert load_kernels.__wrapped__() is None
    assert ["kernels_not_usable"] == [entry["event"] for entry in logs]


def test_a_processor_without_the_instructions_has_no_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    """Code that it could not run is neither compiled nor loaded."""
    monkeypatch.setattr(kernels, "has_instructions", lambda: False)
    monkeypatch.setattr(kernels, "compile_kernels", lambda _: pytest.fail("compiled for nothing"))

    assert load_kernels.__wrapped__() is None
