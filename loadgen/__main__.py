"""`python -m loadgen`: load for a service on Kafka, and proof of what came of it."""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from loadgen.auditor import audit
from loadgen.machine import describe_machine, describe_versions
from loadgen.options import broker_of, limits_of, load_of, make_parser, place_of, topics_of, trial_of
from loadgen.page import render
from loadgen.producer import Load
from loadgen.progress import show_progress
from loadgen.reading import ReadingError
from loadgen.report import Report, ReportError, describe_settings, load_report, make_report, summarise
from loadgen.running import Carried, Control, Place, carry_out
from loadgen.schedule import ScheduleError
from loadgen.scrape import Scrape, as_dict, scrape, watching
from loadgen.search import Trial, judge_trial, search
from loadgen.texts import BodiesError
from loadgen.verdict import Verdict, cannot_tell
from stream_infer.bus.security import SecurityError

OFFENDERS = 1
CANNOT_TELL = 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the command line says and return the exit code."""
    options = make_parser(__doc__ or "", run=_run, audit=_audit, report=_report, search=_search).parse_args(
        arguments
    )
    try:
        return int(options.command(options))
    except (ReadingError, ScheduleError, BodiesError, ReportError, SecurityError, OSError) as error:
        print(f"cannot tell: {error}", file=sys.stderr)  # noqa: T201 - the command's output
        return CANNOT_TELL


def _audit(options: argparse.Namespace) -> int:
    inputs, outputs = topics_of(options)
    verdict = asyncio.run(audit(broker_of(options), inputs, outputs, ordering=options.ordering))
    _keep(options.json, verdict.as_dict())
    print("\n".join(_lines(verdict)))  # noqa: T201 - the command's output
    return verdict.exit_code


def _run(options: argparse.Namespace) -> int:
    load, place = load_of(options), place_of(options)
    report, verdict = asyncio.run(_report_run(load, place, options))
    _keep(options.json, report)
    print(json.dumps(summarise(report)))  # noqa: T201 - the command's output
    return _exit_code(report, verdict)


def _exit_code(report: Report, verdict: Verdict | None) -> int:
    """Return the audit's code, or 1 unless everything that was to be sent came out as it should.

    An outcome that is read twice is an offender only where no audit can say whether its record was
    written twice, as a producer does that was not told of its success.
    """
    counts = report["counts"]
    faults = counts["failed"] + counts["poison_results"] + (0 if verdict else counts["repeated"])
    if verdict and not verdict.is_clean:
        return verdict.exit_code
    return 0 if report["is_complete"] and not faults else OFFENDERS


def _search(options: argparse.Namespace) -> int:
    trials = asyncio.run(_try_rates(options))
    best = max((trial.rate for trial in trials if trial.held), default=None)
    found = {
        "highest_rate": best,
        "budget_ms": options.budget_ms,
        "trials": [asdict(each) for each in trials],
    }
    _keep(options.json, {**found, "machine": describe_machine(), "versions": describe_versions()})
    print(json.dumps(found))  # noqa: T201 - the command's output
    return 0 if best else OFFENDERS


async def _try_rates(options: argparse.Namespace) -> list[Trial]:
    """Search for the highest rate, saying what came of each; SIGINT ends it with what is known."""
    control, limits, trials = _stopped_by_interrupt(), limits_of(options), []

    async def attempt(rate: float) -> Trial:
        load, place = trial_of(options, rate), place_of(options)
        carried = await carry_out(load, place, options.seed, warm_up=options.warm_up, control=control)
        return judge_trial(carried.recorder, rate, limits.budget_ms)

    async for trial in search(limits, attempt):
        if control.stop.is_set():
            break
        trials.append(trial)
        held = trial.reason or f"held, p99 {trial.p99_ms} ms"
        print(f"{trial.rate:g} a second: {held}", file=sys.stderr)  # noqa: T201 - progress
    return trials


def _stopped_by_interrupt() -> Control:
    control = Control()
    asyncio.get_running_loop().add_signal_handler(signal.SIGINT, control.stop.set)
    return control


def _report(options: argparse.Namespace) -> int:
    page = render([load_report(path) for path in options.files])
    options.output.write_text(page, encoding="utf-8")
    return 0


async def _report_run(load: Load, place: Place, options: argparse.Namespace) -> tuple[Report, Verdict | None]:
    """Carry a load out, ask the worker before and after, audit, and report; SIGINT ends it early."""
    control = _stopped_by_interrupt()
    started_at = datetime.now(UTC).isoformat(timespec="seconds")
    before = await _ask(options.metrics)
    async with watching(options.metrics) as looks:
        with show_progress(load.run, load.count) as show:
            watched = Control(control.stop, show)
            carried = await carry_out(load, place, options.seed, warm_up=options.warm_up, control=watched)
    after = await _ask(options.metrics)
    verdict = await _audit_run(carried, load, place, options) if options.audit else None
    report = make_report(
        describe_settings(load, place, options.seed, options.warm_up),
        carried,
        started_at=started_at,
        machine=describe_machine(),
        versions=describe_versions(),
        metrics=as_dict(options.metrics, before, after, looks) if options.metrics else None,
        looks=looks,
        verdict=verdict,
    )
    return report, verdict


async def _audit_run(carried: Carried, load: Load, place: Place, options: argparse.Namespace) -> Verdict:
    """Audit what came after the run began; a run that was cut short has records still under way."""
    if carried.is_cut_short:
        return cannot_tell("the run was cut short")
    try:
        return await audit(
            place.broker,
            [load.topic],
            place.outputs,
            since=carried.since,
            ordering=options.ordering,
        )
    except ReadingError as error:
        return cannot_tell(str(error))


async def _ask(url: str | None) -> Scrape:
    return await scrape(url) if url else Scrape({})


def _keep(path: Path | None, found: dict[str, Any]) -> None:
    if path:
        path.write_text(json.dumps(found, indent=2), encoding="utf-8")


def _lines(verdict: Verdict) -> Iterator[str]:
    """Yield the verdict for a terminal, the word last."""
    yield from map(str, verdict.offenders)
    for kind, count in verdict.counts.items():
        yield f"{count} {kind}"
    for name, count in verdict.foreign.items():
        yield f"foreign, not judged: {count} {name}"
    yield from (f"doubt: {doubt}" for doubt in verdict.doubts)
    yield (
        f"{verdict.word}: {verdict.records} records, {verdict.results} results, "
        f"{verdict.dead_letters} dead letters"
    )


if __name__ == "__main__":
    sys.exit(main())
