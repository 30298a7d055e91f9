"""Whether the worker does its job: models loaded, passages replayed, partitions open, positions moving."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from stream_infer.web.sources import Readiness

STALL_SECONDS = 30.0
"""How long records may wait without any being committed, or the broker may be silent."""


@dataclass(slots=True)
class WorkerState:
    """What readiness is judged by; times are monotonic seconds."""

    is_loaded: bool = False
    is_replayed: bool = False
    progressed_at: float = 0.0
    heard_at: float = 0.0
    is_stopping: bool = False
    is_working: bool = True
    committed: int = 0

    def note(self, committed: int, now: float, *, is_idle: bool) -> None:
        """Note how many outcomes were committed by now, and whether any record waits for that."""
        if is_idle or committed != self.committed:
            self.progressed_at = now
        self.committed = committed

    def readiness(self, partitions: Iterable[tuple[str, bool]], now: float) -> Readiness:
        """Judge the worker; `partitions` are those it was assigned, by name, and whether each is open."""
        assigned = list(partitions)
        reasons = [
            reason
            for reason, holds in (
                ("the worker is stopping", self.is_stopping),
                ("models are loading", not self.is_loaded),
                ("every batch fails", not self.is_working),
                ("passages are being replayed", not self.is_replayed),
                ("no partitions are assigned", not assigned),
                ("records wait, but positions do not move", now - self.progressed_at > STALL_SECONDS),
                ("the broker has not answered", now - self.heard_at > STALL_SECONDS),
            )
            if holds
        ]
        reasons += [f"partition {name} is being taken over" for name, is_open in assigned if not is_open]
        return Readiness(not reasons, tuple(reasons))
