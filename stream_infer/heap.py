"""The C library's heap: what it holds but does not use can be given back to the system."""

from __future__ import annotations

import ctypes
from collections.abc import Callable


def heap_trimmer() -> Callable[[int], int] | None:
    """Return glibc's `malloc_trim`, or None where the C library has none (see malloc_trim(3))."""
    return getattr(ctypes.CDLL(None), "malloc_trim", None)
