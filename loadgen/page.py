"""Reports of runs as one HTML file that stands alone: no scripts, nothing from a network."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from loadgen import charts
from loadgen.charts import Chart, Point, Series, Tick, draw
from loadgen.gauges import MEMORY
from loadgen.report import Report

BEYOND: Final = 5.0
"""Where a chart by percentile puts the greatest value: as if it were the 99.999th."""

MIB: Final = 2**20

_SHOWN_PERCENTILES: Final = (0.0, 90.0, 99.0, 99.9, 99.99)
_MARKS: Final = {"clean": "✓", "offenders": "✗", "cannot tell": "?"}
_WHOLE: Final = 1_000
"""Numbers from here on are shown without decimals."""
_HITS, _MISSES = "_hits_total", "_misses_total"


@dataclass(frozen=True, slots=True)
class Bar:
    """A part of a breakdown: its length as a share of the longest."""

    name: str
    text: str
    share: float


@dataclass(frozen=True, slots=True)
class Row:
    """A line of a table: what it is about, and its value in each run."""

    name: str
    values: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Table:
    """A titled table with a column for each run."""

    title: str
    rows: tuple[Row, ...]


def render(reports: Sequence[Report]) -> str:
    """Return the page of one run, or of several laid over each other."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
    )
    return environment.get_template("page.html.jinja").render(
        names=_names(reports),
        reports=reports,
        marks=_MARKS,
        charts=_charts(reports),
        geometry=charts,
        stages=[_stages(report) for report in reports],
        tables=[table for table in _tables(reports) if table.rows],
    )


def _names(reports: Sequence[Report]) -> list[str]:
    """Return what each run is called on the page; of equal names each gets a letter."""
    names = [str(report["run"]) for report in reports]
    if len(set(names)) == len(names):
        return names
    return [f"{name} ({chr(ord('A') + place)})" for place, name in enumerate(names)]


def _charts(reports: Sequence[Report]) -> list[Chart]:
    def over_time(title: str, fields: dict[str, str]) -> Chart:
        return draw(title, "seconds", _series(reports, fields))

    return [
        over_time("Events a second", {"sent": "sent", "outcomes": "outcomes"}),
        over_time("Latency, ms", {"p50": "p50_ms", "p90": "p90_ms", "p99": "p99_ms"}),
        over_time("Lag, events without outcome", {"outstanding": "outstanding"}),
        over_time("Lag, ms since the oldest of them was due", {"oldest": "oldest_ms"}),
        _distribution(reports),
        *(_gauge(reports, name) for name in _gauge_names(reports)),
    ]


def _gauge_names(reports: Sequence[Report]) -> list[str]:
    return sorted({name for report in reports for look in _looks(report) for name in look["values"]})


def _gauge(reports: Sequence[Report], name: str) -> Chart:
    """Return how a gauge of the worker went; memory in MiB, for bytes would not fit the axis."""
    is_memory = name.endswith(MEMORY)
    unit, scale = (", MiB", MIB) if is_memory else ("", 1)
    series = [
        Series(
            run,
            [(look["at"], _scaled(look["values"].get(name), scale)) for look in _looks(report)],
            dash,
            dash,
        )
        for dash, (run, report) in enumerate(zip(_names(reports), reports, strict=True))
    ]
    return draw(f"{name}{unit}", "seconds", series)


def _scaled(value: float | None, scale: int) -> float | None:
    return None if value is None else value / scale


def _looks(report: Report) -> list[dict[str, Any]]:
    """Return the looks at a worker's gauges; reports of older versions have none."""
    return list((report["metrics"] or {}).get("gauges", ()))


def _series(reports: Sequence[Report], fields: dict[str, str]) -> list[Series]:
    return [
        Series(
            f"{run}: {name}" if len(reports) > 1 else name,
            [(second["second"] + 1, second[field]) for second in report["seconds"]],
            colour,
            dash,
        )
        for dash, (run, report) in enumerate(zip(_names(reports), reports, strict=True))
        for colour, (name, field) in enumerate(fields.items())
    ]


def _distribution(reports: Sequence[Report]) -> Chart:
    series = [
        Series(run, [_at_percentile(*point) for point in report["curve"]], dash, dash)
        for dash, (run, report) in enumerate(zip(_names(reports), reports, strict=True))
    ]
    ticks = [Tick(_at_percentile(each, None)[0], f"{each:g}") for each in _SHOWN_PERCENTILES]
    return draw("Latency by percentile, ms", "percentile", series, [*ticks, Tick(BEYOND, "max")])


def _at_percentile(percentile: float, latency_ms: float | None) -> Point:
    """Return where a percentile stands: each nine more is a step further."""
    beyond = 1 - percentile / 100
    return (-math.log10(beyond) if beyond > 0 else BEYOND), latency_ms


def _stages(report: Report) -> list[Bar]:
    """Return the mean time of each stage that the worker's metrics tell apart."""
    means = [change for change in _changes(report) if "stage=" in change["labels"] and change["mean"]]
    longest = max([change["mean"] for change in means], default=1.0)
    return [
        Bar(change["labels"].replace('"', ""), f"{change['mean'] * 1e3:,.1f} ms", change["mean"] / longest)
        for change in means
    ]


def _tables(reports: Sequence[Report]) -> list[Table]:
    return [
        _table("Latency, ms", [report["latency_ms"] for report in reports]),
        _table("Throughput", [report["throughput"] for report in reports]),
        _table("Counts", [report["counts"] for report in reports]),
        _table("Memory of the worker", [_memory(report) for report in reports]),
        _table("Audit", [_audit(report) for report in reports]),
        _table("Cache", [_cache(report) for report in reports]),
        _table("Means by the worker's metrics", [_metrics(report, "mean") for report in reports]),
        _table("Increases by the worker's metrics", [_metrics(report, "increase") for report in reports]),
        _table("Settings", [report["settings"] for report in reports]),
        _table("Machine", [report["machine"] for report in reports]),
        _table("Versions", [report["versions"] for report in reports]),
    ]


def _table(title: str, columns: Sequence[dict[str, Any]]) -> Table:
    names = dict.fromkeys(name for column in columns for name in column)
    rows = [Row(name, tuple(_text(column.get(name)) for column in columns)) for name in names]
    return Table(title, tuple(rows))


def _memory(report: Report) -> dict[str, Any]:
    """Return how much the worker held in the second half of the run, and how it changed."""
    found: dict[str, Any] = {}
    for name, memory in report.get("memory", {}).items():
        slope = _scaled(memory["slope_bytes_per_hour"], MIB)
        found |= {f"{name}, MiB": memory["mean_bytes"] / MIB, f"{name}, MiB an hour": slope}
    return found


def _audit(report: Report) -> dict[str, Any]:
    audit = report["audit"] or {}
    numbers = {name: audit[name] for name in ("records", "results", "dead_letters") if name in audit}
    foreign = {f"foreign: {name}": count for name, count in audit.get("foreign", {}).items()}
    doubts = {f"doubt {number}": doubt for number, doubt in enumerate(audit.get("doubts", ()), start=1)}
    first = audit.get("offenders", ())[:10]
    offenders = {
        f"offender {number}": "{kind}: {topic}/{partition}/{offset}".format(**each)
        for number, each in enumerate(first, start=1)
    }
    return {**numbers, **audit.get("counts", {}), **foreign, **doubts, **offenders}


def _cache(report: Report) -> dict[str, Any]:
    """Return what the metrics that count hits and misses say together."""
    found = {
        ending: sum(change["increase"] for change in _changes(report) if change["name"].endswith(ending))
        for ending in (_HITS, _MISSES)
    }
    asked = found[_HITS] + found[_MISSES]
    return {"look-ups": asked, "share of hits": found[_HITS] / asked} if asked else {}


def _metrics(report: Report, field: str) -> dict[str, Any]:
    other = "mean" if field == "increase" else None
    return {
        f"{change['name']} {change['labels']}".strip(): change[field]
        for change in _changes(report)
        if change[field] is not None and (other is None or change[other] is None)
    }


def _changes(report: Report) -> list[dict[str, Any]]:
    metrics = report["metrics"]
    return list(metrics["changes"]) if metrics else []


def _text(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int | float):
        return f"{value:.4g}" if abs(value) < _WHOLE and isinstance(value, float) else f"{value:,.0f}"
    if isinstance(value, list):
        return ", ".join(map(_text, value))
    if isinstance(value, dict):
        return ", ".join(f"{name} {_text(part)}" for name, part in value.items())
    return str(value)
