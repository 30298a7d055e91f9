"""Adapters for the bench's own tests: small, and wrong in the ways that adapters can be."""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np

from loadgen.peers.halves import Translate
from loadgen.peers.setup import Run, Setup, Vectors

HOARDED = 50_000_000
_KEPT: list[bytes] = []


def load(setup: Setup) -> Run:
    """Return what the setup's model names."""
    return RUNS[setup.model]


def prepare(setup: Setup) -> None:
    """Leave a file."""
    setup.made("prepared").write_text(setup.model, encoding="utf-8")


def embed(texts: Sequence[str]) -> Vectors:
    """Return a direction for each text, by its length."""
    angles = np.array([len(text) for text in texts], np.float32) / 10
    return np.stack([np.cos(angles), np.sin(angles)], 1)


def upper(texts: Sequence[str]) -> list[str]:
    """Return the texts in capitals."""
    return [text.upper() for text in texts]


def make_upper(model: str) -> Translate:
    """Return a translator into capitals."""
    return lambda text: f"{model} {text.upper()}"


def zeros(texts: Sequence[str]) -> Vectors:
    """Return nothing of use."""
    return np.zeros((len(texts), 2), np.float32)


def die(texts: Sequence[str]) -> Vectors:
    """End the process, as a library does that crashes."""
    os.write(2, f"cannot bear {len(texts)} texts\n".encode())
    os._exit(3)


def fail(texts: Sequence[str]) -> Vectors:
    """Raise."""
    raise ValueError(f"no {len(texts)} texts, please")


def hoard(texts: Sequence[str]) -> list[str]:
    """Keep some memory for good."""
    _KEPT.append(b"x" * HOARDED)
    return list(texts)


RUNS: dict[str, Run] = {
    "embed": embed,
    "upper": upper,
    "zeros": zeros,
    "die": die,
    "fail": fail,
    "hoard": hoard,
}
