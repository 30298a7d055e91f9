"""What a fault is."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from loadgen.kafka.brokers import KAFKA, KAFKA3, KINDS
from tests.faults.scene import Scene
from tests.faults.schedule import Share

Strike = Callable[[Scene, random.Random], Awaitable[None]]

EVERYWHERE: Final = frozenset(KINDS)
ON_KAFKA: Final = frozenset({KAFKA, KAFKA3})
ON_CLUSTERS: Final = frozenset({KAFKA3})
ONE: Final = Share()
OFTEN: Final = Share(2.0)
"""For what is over soon, and comes at any moment."""


@dataclass(frozen=True, slots=True)
class Fault:
    """Something that goes wrong; `strike` has it go wrong, sees that it did, and puts it right again.

    It raises `NotRealError` where nothing came of it. When it returns, nothing stands in the way of
    service any more.
    """

    name: str
    strike: Strike
    kinds: frozenset[str] = EVERYWHERE
    """The brokers that this may happen with, and all promises be kept."""
    share: Share = ONE
