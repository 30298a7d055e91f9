"""The instruction sets whose kernels tests run, one of which no processor need have."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Final

import pytest

from stream_infer.engine.compilation import INSTRUCTION_SETS, InstructionSet
from stream_infer.engine.kernels import Kernels
from stream_infer.engine.processor import processor_field

AVX2: Final = INSTRUCTION_SETS[-1]
EMULATED: Final = InstructionSet(
    "AVX-512 VNNI, emulated",
    (*AVX2.flags, "-O1", "-include", str(Path(__file__).with_name("avx512.h"))),
    AVX2.needed,
)
"""The sources for AVX-512 on a processor with AVX2, by what `avx512.h` makes of its instructions."""
POSSIBLE: Final = [
    each
    for each in (*INSTRUCTION_SETS, EMULATED)
    if each.needed <= frozenset(processor_field("flags").split())
]


@contextmanager
def on_path(
    path: str, found: Kernels | None, monkeypatch: pytest.MonkeyPatch, *modules: ModuleType
) -> Iterator[None]:
    """Have the modules take the kernels that were found, or torch, while the context lasts."""
    if path == "kernels" and found is None:
        pytest.skip("there is no compiler on this machine")
    with monkeypatch.context() as patch:
        for module in modules:
            patch.setattr(module, "load_kernels", lambda: found if path == "kernels" else None)
        yield
