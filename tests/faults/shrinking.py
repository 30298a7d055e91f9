"""Finding a short schedule that still fails: delta debugging, as Zeller and Hildebrandt describe it.

Simplifying and Isolating Failure-Inducing Input, IEEE Transactions on Software Engineering 28 (2), 2002.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from itertools import pairwise
from typing import TypeVar

T = TypeVar("T")


async def shrink(failing: Sequence[T], fails: Callable[[Sequence[T]], Awaitable[bool]]) -> list[T]:
    """Return a part of `failing`, in its order, that fails and of which no single element can go.

    It holds only as far as `fails` answers the same each time. Halves are tried first, then ever
    smaller parts, each left out of the rest.
    """
    kept, parts = list(failing), 2
    while len(kept) > 1:
        smaller = await _first_failing(_candidates(kept, parts), fails)
        if smaller is not None:
            parts = max(2, parts - 1) if len(smaller) > len(kept) // 2 else 2
            kept = smaller
        elif parts >= len(kept):
            break
        else:
            parts = min(len(kept), parts * 2)
    return kept


def _candidates(kept: Sequence[T], parts: int) -> list[list[T]]:
    """Return the parts, then what is left without each; of two parts these are the same."""
    bounds = [len(kept) * place // parts for place in range(parts + 1)]
    alone = [list(kept[begin:end]) for begin, end in pairwise(bounds)]
    without = [[*kept[:begin], *kept[end:]] for begin, end in pairwise(bounds)]
    return alone if parts == 2 else [*alone, *without]


async def _first_failing(
    candidates: Sequence[list[T]], fails: Callable[[Sequence[T]], Awaitable[bool]]
) -> list[T] | None:
    for candidate in candidates:
        if await fails(candidate):
            return candidate
    return None
