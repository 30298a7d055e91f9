"""The C++ kernels: compiled once, found again, done without where they cannot be had."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog
import torch
from structlog.testing import capture_logs
from torch import nn

from stream_infer.engine import compilation, kernels, quantization
from stream_infer.engine.compilation import (
    INSTRUCTION_SETS,
    NO_KERNELS,
    InstructionSet,
    compile_kernels,
    find_compiler,
    find_instructions,
    kernels_at_hand,
)
from stream_infer.engine.kernels import load_kernels, load_kernels_for, pack_weight, unpack_rows
from stream_infer.engine.quantization import Int8Linear
from tests.unit.full_disk import full_disk
from tests.unit.instruction_sets import AVX2, POSSIBLE

needs_kernels = pytest.mark.skipif(
    not POSSIBLE or find_compiler() is None,
    reason="there is no compiler, or no processor for what it would make",
)
with_each_set = pytest.mark.parametrize("instructions", POSSIBLE, ids=lambda each: each.name)


@pytest.fixture(autouse=True)
def _prepared(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    # How tests before this one configured logging is kept by loggers that they used, and in force for others.
    configured = structlog.get_config()
    structlog.reset_defaults()
    for module in (compilation, kernels):
        monkeypatch.setattr(module, "log", structlog.get_logger())
    torch.manual_seed(7)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
    structlog.configure(**configured)


@pytest.fixture
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "stream-infer"


def layer_for(
    instructions: InstructionSet | None,
    layer: nn.Linear,
    monkeypatch: pytest.MonkeyPatch,
    widths: torch.Tensor | None = None,
    *,
    in_groups: bool = False,
) -> Int8Linear:
    """Return the 8-bit layer with the kernels for an instruction set, or without kernels."""
    found = instructions and load_kernels_for(instructions)
    assert (found is None) == (instructions is None)
    with monkeypatch.context() as patch:
        patch.setattr(quantization, "load_kernels", lambda: found)
        return Int8Linear.of(layer, widths=widths, in_groups=in_groups)


@needs_kernels
@with_each_set
@pytest.mark.parametrize("inputs", [384, 17])
@torch.inference_mode()
def test_a_smoothed_layer_has_the_same_bits_too(
    instructions: InstructionSet, inputs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The factors of its inputs' columns are applied by one operation, too."""
    layer = nn.Linear(inputs, 70)
    batch = torch.randn(20, inputs) * torch.logspace(-2, 2, inputs)

    found = [layer_for(each, layer, monkeypatch, batch.abs().amax(0))(batch) for each in (None, instructions)]
    assert torch.equal(*found)


@needs_kernels
@with_each_set
@pytest.mark.parametrize(("inputs", "outputs"), [(384, 1536), (1536, 384), (8, 3), (17, 70), (64, 64)])
@pytest.mark.parametrize("rows", [0, 1, 5, 7, 100, 300])
@torch.inference_mode()
def test_a_layer_has_the_same_bits_with_kernels_and_without(
    instructions: InstructionSet, inputs: int, outputs: int, rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever its size, and for rows of zeros, of one sign and of many magnitudes."""
    layer = nn.Linear(inputs, outputs)
    batch = torch.randn(rows, inputs) * torch.logspace(-6, 6, rows)[:, None]
    batch[1:2] = 0.0
    batch[2:3].abs_()
    batch[3:4].abs_().neg_()

    found = [layer_for(each, layer, monkeypatch)(batch) for each in (None, instructions)]
    assert torch.equal(*found)


@needs_kernels
@with_each_set
@pytest.mark.parametrize(("inputs", "outputs"), [(512, 130), (1536, 70), (200, 64)])
@pytest.mark.parametrize("rows", [1, 5, 100])
@torch.inference_mode()
def test_a_layer_in_groups_has_the_same_bits_too(
    instructions: InstructionSet, inputs: int, outputs: int, rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Groups of a row that are wide, of one sign and zero, smoothed or not."""
    layer = nn.Linear(inputs, outputs)
    batch = torch.randn(rows, inputs) * torch.logspace(-2, 2, inputs)
    batch[:, 256:512].abs_()
    batch[0, :256] = 0.0

    for widths in (None, batch.abs().amax(0)):
        found = [
            layer_for(each, layer, monkeypatch, widths, in_groups=True)(batch)
            for each in (None, instructions)
        ]
        assert torch.equal(*found)


@needs_kernels
@with_each_set
@torch.inference_mode()
def test_threads_change_no_bit(instructions: InstructionSet, monkeypatch: pytest.MonkeyPatch) -> None:
    """Work that is shared out gives what one thread gives."""
    layer = layer_for(instructions, nn.Linear(384, 1536), monkeypatch)
    batch = torch.randn(200, 384)
    alone = layer(batch)
    torch.set_num_threads(3)

    assert torch.equal(alone, layer(batch))


@pytest.mark.parametrize("instructions", [None, *POSSIBLE], ids=lambda each: each.name if each else "torch")
@pytest.mark.parametrize("inputs", [50, 512])
@torch.inference_mode()
def test_selected_outputs_are_those_of_the_whole_layer(
    instructions: InstructionSet | None, inputs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A shortlist's layer computes what the whole one computes for its words."""
    if instructions and find_compiler() is None:
        pytest.skip("there is no compiler")
    layer = layer_for(instructions, nn.Linear(inputs, 200), monkeypatch, in_groups=True)
    outputs = torch.tensor([3, 7, 64, 130, 199])
    batch = torch.randn(4, inputs)

    assert torch.equal(layer(batch)[:, outputs], layer.select(outputs)(batch))


@pytest.mark.parametrize("columns", [16, 64])
def test_unpacking_inverts_packing(columns: int) -> None:
    """Rows come out of the kernels' layout as they went in, padding aside."""
    weight = torch.randint(-127, 128, (130, 10), dtype=torch.int8)
    rows = torch.tensor([0, 64, 129])

    assert torch.equal(weight[rows], unpack_rows(pack_weight(weight, columns), rows, 10))


@needs_kernels
@pytest.mark.slow
def test_kernels_are_compiled_once(empty_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second process finds what the first has compiled, and nothing else is left behind."""
    assert load_kernels.__wrapped__() is not None
    (made,) = empty_cache.iterdir()

    monkeypatch.setattr(compilation, "compile_kernels", lambda *_: pytest.fail("compiled again"))

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
        assert compile_kernels(AVX2, empty_cache / "kernels.so") is None
    assert ["kernels_not_usable"] == [entry["event"] for entry in logs]
    assert not empty_cache.is_dir() or not list(empty_cache.iterdir())


@needs_kernels
@pytest.mark.slow
def test_a_full_disk_is_done_without_kernels(empty_cache: Path) -> None:
    with full_disk(), capture_logs() as logs:
        assert compile_kernels(AVX2, empty_cache / "kernels.so") is None

    assert ["kernels_not_usable"] == [entry["event"] for entry in logs]
    assert not list(empty_cache.iterdir())


@needs_kernels
def test_kernels_that_cannot_be_loaded_are_done_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What another system has compiled into a shared cache does not stop the start."""
    broken = tmp_path / "kernels.so"
    broken.write_bytes(b"not a library")
    monkeypatch.setattr(compilation, "compile_kernels", lambda *_: broken)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))

    with capture_logs() as logs:
        assert load_kernels.__wrapped__() is None
    assert ["kernels_not_usable"] == [entry["event"] for entry in logs]


def test_a_processor_without_the_instructions_has_no_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    """Code that it could not run is neither compiled nor loaded."""
    monkeypatch.setattr(compilation, "processor_field", lambda _: "fpu sse2")
    monkeypatch.setattr(compilation, "compile_kernels", lambda *_: pytest.fail("compiled for nothing"))

    with capture_logs() as logs:
        assert load_kernels.__wrapped__() is None
    assert ["kernels_not_used"] == [entry["event"] for entry in logs]


@pytest.mark.parametrize(
    ("flags", "name"), [("avx2 f16c", "AVX2"), ("avx2 f16c avx512f avx512_vnni", "AVX2")]
)
def test_a_processor_gets_what_it_can_run(flags: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """All that an instruction set needs must be there."""
    monkeypatch.setattr(compilation, "processor_field", lambda _: flags)
    found = find_instructions()
    assert found is not None
    assert name == found.name

    monkeypatch.setattr(
        compilation, "processor_field", lambda _: " ".join(INSTRUCTION_SETS[0].needed) + " avx2 f16c"
    )
    assert INSTRUCTION_SETS[0] is find_instructions()


def test_what_is_at_hand_has_a_name(empty_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was measured with other kernels, or without, does not hold."""
    monkeypatch.setattr(compilation, "SOURCES", empty_cache)
    monkeypatch.setattr(compilation, "processor_field", lambda _: "avx2 f16c")
    monkeypatch.setattr(compilation, "find_compiler", lambda: None)
    assert kernels_at_hand() == NO_KERNELS

    monkeypatch.setattr(compilation, "find_compiler", lambda: "/usr/bin/g++")
    with_compiler = kernels_at_hand()
    assert with_compiler.startswith("kernels-")

    empty_cache.mkdir()
    (empty_cache / with_compiler).touch()
    monkeypatch.setattr(compilation, "find_compiler", lambda: None)
    assert with_compiler == kernels_at_hand()

    (empty_cache / "more.h").write_text("// another kernel")
    assert kernels_at_hand() == NO_KERNELS
    monkeypatch.setattr(compilation, "processor_field", lambda _: "sse2")
    assert kernels_at_hand() == NO_KERNELS
