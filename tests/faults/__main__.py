"""`python -m tests.faults`: many faults, under load, on one kind of broker or several; see `--help`."""

from __future__ import annotations

import argparse
import asyncio
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory, mkdtemp

from rich.console import Console

from loadgen.kafka.brokers import KAFKA, KINDS
from stream_infer.log import configure_logging
from tests.faults.catalogue import FAULTS, faults_for
from tests.faults.report import as_json, exit_code, table_of
from tests.faults.runner import Result, Struck, run
from tests.faults.scene import Conditions
from tests.faults.schedule import Injection, draw_schedule
from tests.faults.shrinking import shrink

console = Console(stderr=True)


def main() -> int:
    """Run what was asked for; return 0 if every promise was kept everywhere, and every fault once real."""
    options = _parse()
    configure_logging("error", as_json=False)
    results = [asyncio.run(_run(kind, options)) for kind in options.broker or [KAFKA]]
    Console(width=140).print(table_of(results))
    if options.json:
        found = [as_json(result, options.seed) for result in results]
        options.json.write_text(json.dumps(found, indent=2), encoding="utf-8")
    return exit_code(results)


async def _run(kind: str, options: argparse.Namespace) -> Result:
    faults = faults_for(kind)
    if options.only:
        faults = {name: fault for name, fault in faults.items() if name in options.only}
    shares = {name: fault.share for name, fault in faults.items()}
    schedule = draw_schedule(shares, options.faults, options.seed)
    result = await _carry_out(kind, schedule, options)
    for fault in result.untried:
        console.print(f"{kind}: nothing ever came of '{fault}': it was not tried", highlight=False)
    if not result.has_passed:
        _tell(result, schedule, options.seed)
        if options.shrink:
            await _shrink(kind, schedule, options)
    return result


async def _carry_out(kind: str, schedule: Sequence[Injection], options: argparse.Namespace) -> Result:
    conditions = Conditions(workers=options.workers, rate=options.rate, outage_s=options.outage)
    done = 0

    def on_struck(struck: Struck) -> None:
        nonlocal done
        done += 1
        console.print(f"{kind} {done}/{len(schedule)} {_line(struck)}", highlight=False)

    with _directory(options.keep) as directory:
        return await run(
            kind,
            schedule,
            conditions,
            directory,
            seed=options.seed,
            records=options.records,
            on_struck=on_struck,
        )


@contextmanager
def _directory(keep: Path | None) -> Iterator[Path]:
    """Give a new directory, which goes with the context unless it is to be kept."""
    if keep is None:
        with TemporaryDirectory(prefix="faults-") as name:
            yield Path(name)
    else:
        keep.mkdir(parents=True, exist_ok=True)
        yield Path(mkdtemp(dir=keep))


async def _shrink(kind: str, schedule: Sequence[Injection], options: argparse.Namespace) -> None:
    async def fails(part: Sequence[Injection]) -> bool:
        return not (await _carry_out(kind, part, options)).has_passed

    shortest = await shrink(schedule, fails)
    console.print("The shortest part that fails:", [asdict(injection) for injection in shortest])


def _line(struck: Struck) -> str:
    recovery = "no recovery" if struck.recovery_s is None else f"recovered in {struck.recovery_s:.1f} s"
    effect = f", WITHOUT EFFECT: {struck.not_real}" if struck.not_real else ""
    took = struck.lifted - struck.at
    return f"at {struck.at:.0f} s: {struck.injection.fault}, {took:.1f} s, {recovery}{effect}"


def _tell(result: Result, schedule: Sequence[Injection], seed: int) -> None:
    """Say what is needed to see the failure again."""
    console.print(f"{result.kind}: FAILED with seed {seed}, {len(schedule)} faults:")
    for struck in result.struck:
        console.print(" ", _line(struck), highlight=False)
    for offender in result.verdict.offenders[:20]:
        console.print(" ", str(offender), highlight=False)
    for words in (*result.verdict.doubts, *result.problems):
        console.print(" ", words, highlight=False)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument(
        "--broker", choices=KINDS, action="append", help="may be given again; kafka by itself"
    )
    parser.add_argument("--faults", type=int, default=30, help="how many strike")
    parser.add_argument("--records", type=int, default=0, help="how many records there are at least")
    parser.add_argument("--seed", type=int, default=1, help="the same seed draws the same schedule")
    parser.add_argument("--only", choices=sorted(FAULTS), action="append", help="a fault; may be given again")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rate", type=float, default=1_000.0, help="records a second")
    parser.add_argument("--outage", type=float, default=5.0, help="seconds for which all brokers are down")
    parser.add_argument("--shrink", action="store_true", help="look for a short schedule that fails too")
    parser.add_argument("--json", type=Path, help="where the figures go")
    parser.add_argument("--keep", type=Path, help="a directory that data and logs stay in")
    return parser.parse_args()


if __name__ == "__main__":
    raise SystemExit(main())
