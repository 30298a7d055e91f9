"""What is told of the processor is read by its field's whole name, and nothing told is no fault."""

from pathlib import Path

import pytest

from stream_infer.engine import processor
from stream_infer.engine.processor import processor_field

CPUINFO = """processor\t: 0
model name\t: Some: Processor
flags\t\t: fpu avx512f
vmx flags\t: vnmi
power management:

processor\t: 1
model name\t: Another
"""


def test_fields_of_the_first_core_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "cpuinfo"
    path.write_text(CPUINFO, encoding="ascii")
    monkeypatch.setattr(processor, "_CPUINFO", path)

    assert "Some: Processor" == processor_field("model name")
    assert "fpu avx512f" == processor_field("flags")
    assert "" == processor_field("power management")
    assert "" == processor_field("Features")


def test_a_kernel_that_tells_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processor, "_CPUINFO", tmp_path / "missing")

    assert "" == processor_field("flags")
