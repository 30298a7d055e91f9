"""Which fault comes when: a sequence that a seed determines."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

LONGEST_PAUSE: Final = 0.5
OVERLAPPING_SHARE: Final = 0.15


@dataclass(frozen=True, slots=True)
class Injection:
    """A fault to be injected: `seed` is for what it draws itself, such as its victim.

    It strikes `pause` seconds after service has recovered from the fault before it; one that overlaps
    does not wait for the recovery.
    """

    fault: str
    seed: int
    pause: float = 0.0
    is_overlapping: bool = False


@dataclass(frozen=True, slots=True)
class Share:
    """How often a fault is drawn, beside others, and how often at most."""

    weight: float = 1.0
    limit: int | None = None


def draw_schedule(shares: Mapping[str, Share], count: int, seed: int) -> list[Injection]:
    """Return `count` injections, the same for the same seed; every fault comes before one comes twice.

    There are fewer where the limits allow no more.
    """
    draw = random.Random(seed)
    names = list(_names(shares, count, draw))
    return [
        Injection(
            fault=name,
            seed=draw.getrandbits(32),
            pause=round(draw.random() * LONGEST_PAUSE, 3),
            is_overlapping=place > 0 and draw.random() < OVERLAPPING_SHARE,
        )
        for place, name in enumerate(names)
    ]


def _names(shares: Mapping[str, Share], count: int, draw: random.Random) -> Iterator[str]:
    times: Counter[str] = Counter()
    first = sorted(name for name, share in shares.items() if share.limit != 0)
    draw.shuffle(first)
    for place in range(count):
        left = [name for name, share in sorted(shares.items()) if not _is_spent(share, times[name])]
        if not left:
            return
        weights = [shares[name].weight for name in left]
        name = first[place] if place < len(first) else draw.choices(left, weights)[0]
        times[name] += 1
        yield name


def _is_spent(share: Share, times: int) -> bool:
    return share.limit is not None and times >= share.limit
