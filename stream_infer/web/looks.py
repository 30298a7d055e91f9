"""The looks at a worker's metrics over the last minutes; pure, time is an argument."""

from __future__ import annotations

from collections import deque

from stream_infer.web.change import Change
from stream_infer.web.figures import Figures, figures, point
from stream_infer.web.probe import Samples

WINDOW = 10.0
"""Seconds that rates and percentiles are over: fewer make them jump where events are few."""
HISTORY = 300.0
"""Seconds that the charts go back."""


class Looks:
    """Makes figures of the latest looks, and remembers what charts show of them."""

    def __init__(self) -> None:
        self._looks: deque[tuple[float, Samples]] = deque()
        self._points: deque[Figures] = deque()
        self._keys: dict[object, tuple[str, frozenset[tuple[str, str]]]] = {}

    @property
    def points(self) -> list[Figures]:
        """What charts show, the oldest first."""
        return list(self._points)

    def add(self, samples: Samples, now: float) -> Figures:
        """Take a look in; return the figures between it and the one a window before, or the oldest."""
        # All looks share their keys, which take ten times the memory of the values.
        shared = {self._keys.setdefault(key, key): value for key, value in samples.items()}
        self._looks.append((now, shared))
        while len(self._looks) > 2 and self._looks[1][0] <= now - WINDOW:  # noqa: PLR2004 - the two that are compared
            self._looks.popleft()
        since, before = self._looks[0]
        seen = figures(Change([(before, shared)], max(now - since, 1e-9)))
        self._note(point(now, seen))
        return seen

    def _note(self, latest: Figures) -> None:
        self._points.append(latest)
        while self._points[0]["t"] < latest["t"] - HISTORY:
            self._points.popleft()
