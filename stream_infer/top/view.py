"""The tables that `stream-infer top` shows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from rich.console import Group, RenderableType
from rich.table import Table

from stream_infer.web.change import Change
from stream_infer.web.figures import hit_share, latency, look_ups

Cell = Callable[[Change, str], str]


def page(states: Mapping[str, str], change: Change) -> RenderableType:
    """Return what the workers, whose states are given by address, did in the time of the change."""
    return Group(
        _workers(states, change),
        _table("stream", change.values("received_total", "stream"), _STREAM, change),
        _table("model", change.values("batch_items_count", "model"), _MODEL, change),
    )


def _workers(states: Mapping[str, str], change: Change) -> RenderableType:
    table = Table(expand=True, caption=_summary(change))
    table.add_column("worker")
    table.add_column("state")
    for address, state in states.items():
        table.add_row(address, state)
    return table


def _summary(change: Change) -> str:
    return (
        f"cache hits {hit_share(change) or 0.0:.0%} of {look_ups(change):.0f}"
        f"   cache {change.total('cache_bytes') / 2**20:.0f} MiB"
        f"   transactions {change.rate('transactions_total', outcome='committed'):.1f}/s"
        f"   aborted {change.growth('transactions_total', outcome='aborted'):.0f}"
        f"   replica restarts {change.total('replica_restarts_total'):.0f}"
    )


def _table(title: str, names: Sequence[str], columns: Mapping[str, Cell], change: Change) -> Table:
    table = Table(expand=True)
    table.add_column(title)
    for heading in columns:
        table.add_column(heading, justify="right")
    for name in names:
        table.add_row(name, *(cell(change, name) for cell in columns.values()))
    return table


def _milliseconds(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds * 1000:.0f}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


def _latency(share: float) -> Cell:
    return lambda change, name: _milliseconds(latency(change, name, share))


_STREAM: Mapping[str, Cell] = {
    "in/s": lambda change, name: f"{change.rate('received_total', stream=name):.1f}",
    "results/s": lambda change, name: f"{change.rate('results_total', stream=name):.1f}",
    "dead/s": lambda change, name: f"{change.rate('dead_letters_total', stream=name):.1f}",
    "p50 ms": _latency(0.5),
    "p99 ms": _latency(0.99),
    "budget": lambda change, name: _milliseconds(change.most("latency_budget_seconds", stream=name)),
    "late/s": lambda change, name: f"{change.rate('late_total', stream=name):.1f}",
    "in flight": lambda change, name: f"{change.total('in_flight_records', stream=name):.0f}",
    "lag": lambda change, name: f"{change.total('lag_records', stream=name):.0f}",
    "lag s": lambda change, name: f"{change.most('lag_seconds', stream=name):.1f}",
}
_MODEL: Mapping[str, Cell] = {
    "batches/s": lambda change, name: f"{change.rate('batch_items_count', model=name):.1f}",
    "texts a batch": lambda change, name: _number(change.mean("batch_items", model=name)),
    "tokens/s": lambda change, name: f"{change.rate('engine_tokens_total', model=name):.0f}",
    "ms a batch": lambda change, name: _milliseconds(change.mean("batch_seconds", model=name)),
    "busy": lambda change, name: f"{change.rate('batch_seconds_sum', model=name):.0%}",
    "tokens waiting": lambda change, name: f"{change.total('queue_tokens', model=name):.0f}",
    "failures": lambda change, name: f"{change.growth('batch_failures_total', model=name):.0f}",
}
