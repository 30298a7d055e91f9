"""What the bench is at, on stderr so that stdout stays the command's output."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from loadgen.bench.rows import Row

_COLUMNS: Final = (
    BarColumn(),
    MofNCompleteColumn(),
    TextColumn("rows, {task.description}"),
    TimeElapsedColumn(),
)


@dataclass(frozen=True, slots=True)
class Shown:
    """A bar of rows; without a terminal, a line for each step."""

    progress: Progress
    task: TaskID

    def say(self, step: str) -> None:
        """Show what goes on now."""
        self.progress.update(self.task, description=step)
        if not self.progress.console.is_terminal:
            self.progress.console.print(step)

    def count(self, rows: Iterable[Row]) -> Iterator[Row]:
        """Yield the rows, and count them."""
        for row in rows:
            self.progress.advance(self.task)
            yield row


@contextmanager
def show_rows(count: int) -> Iterator[Shown]:
    """Show a bar of `count` rows while the context lasts."""
    console = Console(stderr=True)
    with Progress(*_COLUMNS, console=console, disable=not console.is_terminal) as progress:
        yield Shown(progress, progress.add_task("starting", total=count))
