"""What an adapter is given, and what it gives back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

Vectors = NDArray[np.float32]
Run = Callable[[Sequence[str]], Vectors | list[str]]
"""Returns a vector or a translation for each text, in order."""

NEW_TOKENS: Final = 47
"""What every translation by random weights is long."""


@dataclass(frozen=True, slots=True)
class Setup:
    """The model to load, and what to load it with.

    `model` is a directory of Hugging Face files, or a source as the service's settings name one;
    `scratch` is a directory for what is made of it. `min_agreement` is what the service asks of 8 bits.
    """

    model: str
    scratch: str
    threads: int
    device: str = "cpu"
    precision: str = "int8"
    min_agreement: float = 0.9

    @property
    def directory(self) -> Path:
        """The model's directory."""
        return Path(self.model)

    def made(self, name: str) -> Path:
        """Return the place of something that is made of the model."""
        return Path(self.scratch) / name
