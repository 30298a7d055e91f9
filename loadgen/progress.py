"""A run's progress on a terminal, on stderr so that stdout stays the command's output."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from loadgen.recorder import Recorder

_COLUMNS = (
    TextColumn("{task.description}"),
    BarColumn(),
    MofNCompleteColumn(),
    TextColumn("{task.fields[state]}"),
    TimeElapsedColumn(),
)


@contextmanager
def show_progress(name: str, count: int) -> Iterator[Callable[[Recorder], None]]:
    """Show a bar of outcomes out of `count` events while the context lasts; nothing without a terminal."""
    console = Console(stderr=True)
    with Progress(*_COLUMNS, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task(name, total=count, state="")
        yield lambda recorder: progress.update(
            task, completed=recorder.outcomes + recorder.failed, state=describe(recorder)
        )


def describe(recorder: Recorder) -> str:
    """Return what a watcher wants to know, in a line."""
    p99 = recorder.latencies.percentile_ms(99.0)
    latency = "" if p99 is None else f", p99 {p99:.0f} ms"
    failed = f", {recorder.failed} failed" if recorder.failed else ""
    return f"{recorder.sent} sent, {recorder.outstanding} out{latency}{failed}"
