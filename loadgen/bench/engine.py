"""The engine's rows."""

from __future__ import annotations

from typing import Final

from loadgen.bench import encoding, fidelity, memory, translating

MAKERS: Final = (*encoding.MAKERS, *fidelity.MAKERS, *translating.MAKERS, *memory.MAKERS)
