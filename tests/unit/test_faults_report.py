"""The table of a run: offenders count for the faults that their records were under test of."""

from __future__ import annotations

from dataclasses import replace

from rich.console import Console

from loadgen.verdict import Kind, Offender, Verdict
from tests.faults.report import BROKEN, KEPT, UNTRIED, as_json, exit_code, rows_of, table_of
from tests.faults.runner import Result, Struck
from tests.faults.schedule import Injection


def struck(fault: str, begin: int, end: int, took: float | None, not_real: str = "") -> Struck:
    """Return a fault that was lifted at 10 s, with these offsets of partition 0 under test."""
    recovered = None if took is None else 10.0 + took
    return Struck(Injection(fault, 1), 9.0, 10.0, recovered, {0: begin}, {0: end}, not_real)


OFFENDERS = (
    Offender(Kind.LOST, "requests", 0, 15),
    Offender(Kind.DUPLICATED, "requests", 0, 25),
    Offender(Kind.OUT_OF_ORDER, "requests", 0, 99),
    Offender(Kind.LOST, "requests", 1, 15),
)
VERDICT = Verdict(100, 98, 1, 0, {}, {Kind.LOST: 2, Kind.DUPLICATED: 1, Kind.OUT_OF_ORDER: 1}, OFFENDERS, ())
RESULT = Result(
    "kafka",
    [
        struck("kill", 10, 20, 1.0),
        struck("kill", 20, 30, 3.0),
        struck("stop", 14, 16, 2.0),
        struck("stop", 30, 40, None, "nothing came of it"),
    ],
    VERDICT,
    own_ends=[1],
    seconds=60.0,
)


def test_rows_say_what_was_under_test_and_what_came_of_it() -> None:
    kill, stop = rows_of(RESULT)

    assert ("kill", 2, 0, 20, 1, 1, 0, 2.0, 3.0) == (
        kill.fault,
        kill.times,
        kill.not_real,
        kill.records,
        kill.lost,
        kill.duplicated,
        kill.out_of_order,
        kill.recovery_p50_s,
        kill.recovery_max_s,
    )
    assert ("stop", 1, 1, 12, 1, 0, 0) == (
        stop.fault,
        stop.times,
        stop.not_real,
        stop.records,
        stop.lost,
        stop.duplicated,
        stop.out_of_order,
    )


def test_totals_are_the_verdicts_own() -> None:
    found = as_json(RESULT, seed=7)

    assert 7 == found["seed"]
    assert (3, 2, 1, 1, "offenders") == tuple(
        found["totals"][name] for name in ("faults", "lost", "duplicated", "out of order", "verdict")
    )
    assert [{"fault": "stop", "why": "nothing came of it"}] == found["not_real"]
    assert not RESULT.has_passed


def test_a_fault_of_which_nothing_ever_came_was_not_tried() -> None:
    kept = replace(RESULT, verdict=replace(VERDICT, counts={}, offenders=()))
    never = struck("down", 40, 50, 1.0, "nobody is connected")
    untried = replace(kept, struck=[*kept.struck, never, never])

    assert [] == kept.untried
    assert ["down"] == untried.untried
    assert ["down"] == as_json(untried, seed=7)["totals"]["untried"]
    assert KEPT == exit_code([kept])
    assert UNTRIED == exit_code([kept, untried])
    assert BROKEN == exit_code([untried, RESULT])
    assert 3 == len({KEPT, UNTRIED, BROKEN})


def test_the_table_has_every_fault_and_the_total() -> None:
    console = Console(width=140)
    with console.capture() as capture:
        console.print(table_of([RESULT]))
    lines = [line for line in capture.get().splitlines() if "kafka" in line]

    assert ["kill", "stop", "all: offenders"] == [line.split("│")[2].strip() for line in lines]
    assert "1 (+1 without effect)" in lines[1]


def test_the_table_says_what_was_not_tried() -> None:
    untried = replace(RESULT, struck=[struck("down", 40, 50, 1.0, "nobody is connected")])
    console = Console(width=140)
    with console.capture() as capture:
        console.print(table_of([untried]))

    assert "all: offenders, but for 1 never real" in capture.get()
