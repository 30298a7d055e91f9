"""Counting what went in against what came out: the demo's balance sheet."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import numpy as np

from stream_infer.schemas import Task


@dataclass(slots=True)
class TaskTally:
    """One task's events."""

    sent: int = 0
    results: int = 0
    dead_letters: int = 0
    latencies: list[float] = field(default_factory=list)

    def summary(self) -> dict[str, float]:
        """Return the counts and the latency percentiles in milliseconds (0 when nothing came back)."""
        p50, p99 = np.percentile(self.latencies, (50, 99)) if self.latencies else (0.0, 0.0)
        return {
            "in": self.sent,
            "results": self.results,
            "dead_letters": self.dead_letters,
            "p50_ms": round(float(p50) * 1000, 1),
            "p99_ms": round(float(p99) * 1000, 1),
        }


class Tally:
    """Matches outcomes with sent events by id; times are seconds on one clock of the caller's."""

    def __init__(self) -> None:
        self.tasks = {task: TaskTally() for task in Task}
        self._sent: dict[str, tuple[Task, float]] = {}
        self._outcomes: Counter[str] = Counter()
        self.unexpected = 0

    def sent(self, event_id: str, task: Task, at: float) -> None:
        """Note that an event went out."""
        self._sent[event_id] = (task, at)
        self.tasks[task].sent += 1

    def came_back(self, event_id: str, at: float, *, is_result: bool) -> None:
        """Note an outcome; the second one of an event is a duplicate, one of no event is unexpected."""
        if event_id not in self._sent:
            self.unexpected += 1
            return
        self._outcomes[event_id] += 1
        if self._outcomes[event_id] > 1:
            return
        task, sent_at = self._sent[event_id]
        tally = self.tasks[task]
        tally.latencies.append(at - sent_at)
        if is_result:
            tally.results += 1
        else:
            tally.dead_letters += 1

    @property
    def lost(self) -> int:
        """Events without an outcome so far."""
        return len(self._sent) - len(self._outcomes)

    @property
    def duplicated(self) -> int:
        """Outcomes beyond the first of an event, and outcomes of no event."""
        return sum(count - 1 for count in self._outcomes.values()) + self.unexpected

    @property
    def is_balanced(self) -> bool:
        """Whether every event has exactly one outcome."""
        return self.lost == 0 and self.duplicated == 0

    def summary(self, seconds: float) -> dict[str, object]:
        """Return the balance sheet as a JSON object."""
        tasks = {str(task): tally.summary() for task, tally in self.tasks.items()}
        return {
            "in": len(self._sent),
            "results": sum(tally.results for tally in self.tasks.values()),
            "dead_letters": sum(tally.dead_letters for tally in self.tasks.values()),
            "lost": self.lost,
            "duplicated": self.duplicated,
            "seconds": round(seconds, 1),
            "tasks": tasks,
        }
