"""What a worker's endpoints show, and where it comes from."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from prometheus_client import CollectorRegistry


@dataclass(frozen=True, slots=True)
class Readiness:
    """Whether the worker does its job, and if not, what is missing."""

    is_ready: bool
    reasons: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Sources:
    """Where the endpoints read from; each is asked in the event loop, and must not wait.

    `recent` is the latest late events and dead letters as JSON has them, `about` what does not change.
    """

    registry: CollectorRegistry
    readiness: Callable[[], Readiness]
    recent: Callable[[], Mapping[str, Any]]
    about: Mapping[str, Any]
