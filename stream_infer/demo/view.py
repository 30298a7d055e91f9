"""What a person watching the demo sees: rate, latency, cache hits and the latest results."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field

from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table

from stream_infer.demo.tally import Tally
from stream_infer.schemas import Task

LOOK_UPS = (
    "stream_infer_cache_hits_total",
    "stream_infer_cache_misses_total",
    "stream_infer_cache_joins_total",
)
_LATEST = 8


@dataclass(slots=True)
class LiveView:
    """The demo's state, drawn anew several times a second."""

    tally: Tally
    latest: deque[tuple[str, str, str]] = field(default_factory=lambda: deque(maxlen=_LATEST))
    metrics: Mapping[str, float] = field(default_factory=dict)
    phase: str = "starting"
    rate: float = 0.0

    def note(self, task: str, given: str, came_out: str) -> None:
        """Show an event among the latest."""
        self.latest.append((task, given, came_out))

    def __rich__(self) -> RenderableType:
        """Draw the state."""
        return Group(self._counts(), self._latest_table())

    def _counts(self) -> RenderableType:
        table = Table(title=f"stream-infer demo: {self.phase}", expand=True)
        for column in ("task", "in", "results", "dead letters", "p50 ms", "p99 ms"):
            table.add_column(column, justify="left" if column == "task" else "right")
        for task in Task:
            summary = self.tally.tasks[task].summary()
            table.add_row(str(task), *(f"{summary[key]:g}" for key in _COLUMNS))
        table.caption = f"{self.rate:.0f} events/s   {self._cache_line()}"
        return table

    def _cache_line(self) -> str:
        hits, misses, joins = (self.metrics.get(name, 0.0) for name in LOOK_UPS)
        looked_up = hits + misses + joins
        share = hits / looked_up if looked_up else 0.0
        return f"cache hits {hits:.0f} of {looked_up:.0f} ({share:.0%})"

    def _latest_table(self) -> RenderableType:
        table = Table.grid(padding=(0, 1), expand=True)
        table.add_column(style="cyan", no_wrap=True)
        table.add_column(ratio=1, no_wrap=True, overflow="ellipsis")
        table.add_column(ratio=1, no_wrap=True, overflow="ellipsis", style="green")
        for row in self.latest:
            table.add_row(*row)
        return Panel(table, title="latest")


_COLUMNS = ("in", "results", "dead_letters", "p50_ms", "p99_ms")
