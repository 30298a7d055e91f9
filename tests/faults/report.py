"""What a run found, by fault: as a table, and as JSON."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich.table import Table

from loadgen.verdict import Kind
from tests.faults.runner import Result, Struck

JUDGED = (Kind.LOST, Kind.DUPLICATED, Kind.OUT_OF_ORDER)
KEPT, BROKEN, UNTRIED = range(3)
"""Exit codes: every promise was kept, one was broken, or a fault was never real so that nothing is known."""


@dataclass(frozen=True, slots=True)
class Row:
    """What is known of one fault on one kind of broker.

    An offender counts for every fault that its record was under test of.
    """

    broker: str
    fault: str
    times: int
    not_real: int
    records: int
    lost: int
    duplicated: int
    out_of_order: int
    recovery_p50_s: float | None
    recovery_max_s: float | None


def rows_of(result: Result) -> list[Row]:
    """Return a row for each fault that struck, by name."""
    names = sorted({struck.injection.fault for struck in result.struck})
    return [
        _row(result, name, [struck for struck in result.struck if struck.injection.fault == name])
        for name in names
    ]


def totals(result: Result) -> dict[str, Any]:
    """Return what is known of the whole run."""
    counts = {str(kind): result.verdict.counts.get(kind, 0) for kind in Kind}
    return {
        "broker": result.kind,
        "faults": sum(1 for struck in result.struck if not struck.not_real),
        "records": result.verdict.records,
        "results": result.verdict.results,
        "dead_letters": result.verdict.dead_letters,
        **counts,
        "workers_ended_by_themselves": len(result.own_ends),
        "seconds": round(result.seconds, 1),
        "verdict": result.verdict.word,
        "doubts": list(result.verdict.doubts),
        "problems": list(result.problems),
        "untried": list(result.untried),
    }


def exit_code(results: Sequence[Result]) -> int:
    """Return what a script is to know; a broken promise goes before what was never tried."""
    if not all(result.has_passed for result in results):
        return BROKEN
    return UNTRIED if any(result.untried for result in results) else KEPT


def as_json(result: Result, seed: int) -> dict[str, Any]:
    """Return everything, for machines."""
    return {
        "seed": seed,
        "totals": totals(result),
        "rows": [asdict(row) for row in rows_of(result)],
        "schedule": [asdict(struck.injection) for struck in result.struck],
        "not_real": [
            {"fault": struck.injection.fault, "why": struck.not_real}
            for struck in result.struck
            if struck.not_real
        ],
        "offenders": [str(offender) for offender in result.verdict.offenders],
    }


def table_of(results: Iterable[Result]) -> Table:
    """Return a table of every fault on every broker."""
    table = Table("broker", "fault")
    for heading in ("times", "records", "lost", "twice", "disordered", "p50 s", "max s"):
        table.add_column(heading, justify="right")
    for result in results:
        for row in rows_of(result):
            table.add_row(*_cells(row))
        _add_total(table, result)
    return table


def _row(result: Result, name: str, struck: Sequence[Struck]) -> Row:
    times = [each.recovery_s for each in struck if each.recovery_s is not None]
    under_test = {
        kind: sum(
            1
            for offender in result.verdict.offenders
            if offender.kind is kind
            and any(each.covers(offender.partition, offender.offset) for each in struck)
        )
        for kind in JUDGED
    }
    return Row(
        broker=result.kind,
        fault=name,
        times=sum(1 for each in struck if not each.not_real),
        not_real=sum(1 for each in struck if each.not_real),
        records=sum(each.records for each in struck),
        lost=under_test[Kind.LOST],
        duplicated=under_test[Kind.DUPLICATED],
        out_of_order=under_test[Kind.OUT_OF_ORDER],
        recovery_p50_s=round(statistics.median(times), 2) if times else None,
        recovery_max_s=round(max(times), 2) if times else None,
    )


def _cells(row: Row) -> list[str]:
    times = f"{row.times} (+{row.not_real} without effect)" if row.not_real else str(row.times)
    seconds = ["-" if each is None else f"{each:.1f}" for each in (row.recovery_p50_s, row.recovery_max_s)]
    counts = (row.records, row.lost, row.duplicated, row.out_of_order)
    return [row.broker, row.fault, times, *(f"{count:,}" for count in counts), *seconds]


def _add_total(table: Table, result: Result) -> None:
    known = totals(result)
    counts = [f"{known[kind]:,}" for kind in JUDGED]
    word = (
        f"{known['verdict']}, but for {len(result.untried)} never real"
        if result.untried
        else known["verdict"]
    )
    table.add_row(result.kind, f"all: {word}", str(known["faults"]), f"{known['records']:,}", *counts)
    table.add_section()
