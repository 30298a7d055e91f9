"""Loading: the honesty check, adapters, pooling, devices, threads, and a replica's small decisions."""

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from stream_infer.engine.devices import pick_device, pick_dtype
from stream_infer.engine.encoder import pools_by_mean
from stream_infer.engine.fidelity import quantize_honestly
from stream_infer.engine.lora import merge_adapters
from stream_infer.engine.replica import backoff
from stream_infer.engine.serving import answer, is_out_of_memory
from stream_infer.engine.specs import ModelKind, ModelSpec, Precision
from stream_infer.engine.threads import _legacy_quota, _unified_quota, threads_per_replica
from stream_infer.engine.wire import encode_batch
from stream_infer.errors import ConfigError
from stream_infer.schemas import ModelInfo, Output, Tokens


def spec(**options: object) -> ModelSpec:
    return ModelSpec("m", ModelKind.EMBED, "path:x", Precision.INT8, "cpu", options)


def check(spec: ModelSpec, quantised: list[int]) -> float:
    outputs = [[1, 2, 3, 4]]
    return quantize_honestly(
        spec, lambda: outputs.append(quantised), lambda: outputs[-1], lambda before, after: before == after
    )


def test_agreement_is_the_share_of_equal_outputs() -> None:
    """The sample runs before and after quantising, and pairs are compared."""
    assert 1.0 == check(spec(), [1, 2, 3, 4])
    assert 0.75 == check(spec(min_agreement=0.7), [1, 2, 3, 0])


def test_a_model_below_the_floor_is_refused() -> None:
    """The error names the model, both figures and the way out."""
    with pytest.raises(ConfigError, match=r"model m \(path:x\).*0\.750.*0\.9.*bf16"):
        check(spec(), [1, 2, 3, 0])


def test_a_floor_must_be_a_number() -> None:
    """A setting of the wrong type is a fault, not a crash."""
    with pytest.raises(ConfigError, match="min_agreement must be a number"):
        check(spec(min_agreement="high"), [1, 2, 3, 4])


def test_adapters_are_added_to_their_layers(tmp_path: Path) -> None:
    """Each adapted weight grows by scale times B times A; others stay."""
    module = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 2))
    before = [layer.weight.detach().clone() for layer in module if isinstance(layer, nn.Linear)]
    down, up = torch.randn(1, 3).half(), torch.randn(2, 1).half()
    save_file({"0.lora_A": down, "0.lora_B": up, "head.bias": torch.zeros(2)}, tmp_path / "model.safetensors")
    (tmp_path / "card.json").write_text(json.dumps({"scale": 2.0}))

    merge_adapters(module, tmp_path)

    after = [layer.weight.detach() for layer in module if isinstance(layer, nn.Linear)]
    assert torch.allclose(before[0] + 2 * up.float() @ down.float(), after[0])
    assert torch.equal(before[1], after[1])


@pytest.mark.parametrize("name", ["9", "0.nothing"])
def test_adapters_of_another_model_are_refused(tmp_path: Path, name: str) -> None:
    """The error names the layer that is missing."""
    tensors = {f"{name}.lora_A": torch.zeros(1, 3), f"{name}.lora_B": torch.zeros(2, 1)}
    save_file(tensors, tmp_path / "model.safetensors")
    (tmp_path / "card.json").write_text(json.dumps({"scale": 1.0}))

    with pytest.raises(ConfigError, match=f"adapter of {name} does not fit"):
        merge_adapters(nn.Sequential(nn.Linear(3, 2)), tmp_path)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (None, True),
        ({"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": False}, True),
        ({"pooling_mode_mean_tokens": False, "pooling_mode_cls_token": True}, False),
    ],
)
def test_pooling_follows_the_models_files(
    tmp_path: Path, settings: dict[str, bool] | None, *, expected: bool
) -> None:
    """The mean where nothing is said."""
    if settings is not None:
        (tmp_path / "1_Pooling").mkdir()
        (tmp_path / "1_Pooling" / "config.json").write_text(json.dumps(settings))

    assert expected == pools_by_mean(tmp_path)


def test_unknown_pooling_is_refused(tmp_path: Path) -> None:
    """An embedding of another making would be wrong in silence."""
    (tmp_path / "1_Pooling").mkdir()
    (tmp_path / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode_lasttoken": True}))

    with pytest.raises(ConfigError, match="lasttoken"):
        pools_by_mean(tmp_path)


def test_devices_are_checked() -> None:
    """A device that is unknown or absent stops the start."""
    cpu = pick_device(spec())
    assert torch.device("cpu") == cpu
    for device in ("quantum", "cuda:99"):
        with pytest.raises(ConfigError, match=device):
            pick_device(ModelSpec("m", ModelKind.EMBED, "path:x", Precision.INT8, device))


def test_number_types_follow_precision_and_device() -> None:
    """What is not 8-bit is half precision only where bitsandbytes' kernels want it."""
    cpu, cuda = torch.device("cpu"), torch.device("cuda")

    assert torch.float32 is pick_dtype(Precision.INT8, cpu)
    assert torch.float16 is pick_dtype(Precision.INT8, cuda)
    assert torch.bfloat16 is pick_dtype(Precision.BF16, cpu)


def test_threads_are_shared_out() -> None:
    """Each replica has its share of whole cores, and at least one."""
    assert [4, 2, 1, 1] == [threads_per_replica(replicas, cores=4.0) for replicas in (1, 2, 3, 8)]
    assert 1 == threads_per_replica(1, cores=1.5)


def test_the_tightest_quota_counts(tmp_path: Path) -> None:
    """A cgroup is bound by its own limit and by those above it."""
    inner = tmp_path / "pod" / "container"
    inner.mkdir(parents=True)
    (inner / "cpu.max").write_text("max 100000\n")
    (tmp_path / "pod" / "cpu.max").write_text("150000 100000\n")
    own = tmp_path / "self"
    own.write_text("1:name=systemd:/x\n0::/pod/container\n")

    assert 1.5 == _unified_quota(tmp_path, own)
    assert _unified_quota(tmp_path, tmp_path / "missing") is None


def test_version_one_quotas_count(tmp_path: Path) -> None:
    """Minus one means no limit."""
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu/cpu.cfs_period_us").write_text("100000\n")
    (tmp_path / "cpu/cpu.cfs_quota_us").write_text("50000\n")
    assert 0.5 == _legacy_quota(tmp_path)

    (tmp_path / "cpu/cpu.cfs_quota_us").write_text("-1\n")
    assert _legacy_quota(tmp_path) is None


def test_pauses_grow_from_the_second_death_on() -> None:
    """One death is replaced at once; many in a row not faster than every ten seconds."""
    pauses = [backoff(deaths) for deaths in range(14)]

    assert [0.0, 0.0, 0.05, 0.1, 0.2] == pauses[:5]
    assert 10.0 == max(pauses) == pauses[-1]


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (MemoryError(), True),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), True),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"), True),
        (RuntimeError("std::bad_alloc"), True),
        (RuntimeError("shapes cannot be multiplied"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_memory_errors_are_told_apart(error: Exception, *, expected: bool) -> None:
    """Python's, the C++ library's and the devices' are known."""
    assert expected is is_out_of_memory(error)


class Forgetful:
    """A backend that loses an item."""

    @property
    def info(self) -> ModelInfo:
        """Nothing worth knowing."""
        return ModelInfo("m", "path:x", "1", "fp32", "cpu", 8)

    def run(self, batch: Sequence[Tokens], options: Sequence[str]) -> list[Output]:
        """Return nothing."""
        del batch, options
        return []


def test_a_backend_that_loses_an_item_fails_the_batch() -> None:
    """Outputs are never matched to the wrong items."""
    batch = [Tokens(torch.ones(1, dtype=torch.int32).numpy())]

    reply = answer(encode_batch("m", batch, [""], threads=1), {"m": Forgetful()})

    assert {"reason": "model_failed", "error": "ValueError: 0 outputs for 1 items"} == reply
