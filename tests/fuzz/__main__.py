"""Fuzz targets one after another, guided by coverage: `python -m tests.fuzz all --runs 1000000 --seed 7`.

Needs the extra `fuzz`. Each starts from its seeds and from what is kept in `corpus/TARGET`, and leaves
there what reaches more, and whatever broke it, which ends its run. Says what came of each in a line of
JSON, and of several in a table. The exit code is 1 if something broke one, or ended its run early.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from time import monotonic

from tests.fuzz.corpus import CRASH, all_inputs, keep, kept_inputs
from tests.fuzz.registry import TARGETS
from tests.fuzz.target import Target

LONGEST_INPUT_S = 20
_EXECUTED = re.compile(r"stat::number_of_executed_units:\s*(\d+)")


@dataclass(frozen=True, slots=True)
class Report:
    """What one run did: `new` of the `kept` inputs are. `crashes` are the files of what broke the target."""

    target: str
    seed: int
    executions: int
    seconds: float
    kept: int
    new: int
    exit_code: int
    crashes: list[str]


def main(arguments: Sequence[str] | None = None) -> int:
    """Fuzz what is asked for; return 1 if something broke a target or ended its run early."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("target", nargs="+", choices=[*TARGETS, "all"], help="what to fuzz")
    parser.add_argument("--runs", type=int, default=1_000_000, help="how many inputs (default: %(default)s)")
    parser.add_argument("--max-seconds", type=int, default=0, help="end earlier; 0: do not")
    parser.add_argument("--seed", type=int, default=1, help="of the fuzzer's random choices")
    options = parser.parse_args(arguments)
    names = list(TARGETS) if "all" in options.target else options.target
    reports = [fuzz(TARGETS[name], options.runs, options.max_seconds, options.seed) for name in names]
    if len(reports) > 1:
        sys.stdout.write(table(reports))
    return 1 if any(report.exit_code for report in reports) else 0


def table(reports: Sequence[Report]) -> str:
    """Return what came of each run, in Markdown."""
    rows = ["| target | executions | seconds | corpus | new | findings |", "|---|--:|--:|--:|--:|--:|"]
    rows += [
        f"| `{each.target}` | {each.executions:,} | {each.seconds:.0f} | {each.kept} | {each.new} "
        f"| {len(each.crashes)} |"
        for each in reports
    ]
    return "\n".join(rows) + "\n"


def fuzz(target: Target, runs: int, max_seconds: int, seed: int) -> Report:
    """Run the fuzzer on a target, keep what it found, and say so in one line of JSON."""
    began, before = monotonic(), set(kept_inputs(target))
    with TemporaryDirectory() as place:
        corpus, crashes = Path(place) / "corpus", Path(place) / "crashes"
        for folder in (corpus, crashes):
            folder.mkdir()
        for number, data in enumerate(all_inputs(target)):
            (corpus / str(number)).write_bytes(data)
        code, said = _run(
            target, [f"-runs={runs}", f"-seed={seed}", f"-max_total_time={max_seconds}"], corpus, crashes
        )
        seconds = monotonic() - began
        broken = [path.read_bytes() for path in crashes.iterdir()]
        kept = keep(target, [path.read_bytes() for path in corpus.iterdir()], broken)
    after = kept_inputs(target)
    names = [str(path) for path in after if path.name.startswith(CRASH) and path.read_bytes() in broken]
    executed = _EXECUTED.search(said)
    report = Report(
        target.name,
        seed,
        int(executed[1]) if executed else 0,
        round(seconds, 1),
        kept,
        len(set(after) - before),
        code,
        names,
    )
    if code:
        sys.stderr.write(said[-4_000:])
    sys.stdout.write(json.dumps(asdict(report)) + "\n")
    sys.stdout.flush()
    return report


def _run(target: Target, arguments: Sequence[str], corpus: Path, crashes: Path) -> tuple[int, str]:
    """Run the fuzzer in a process of its own; return its exit code and what it said."""
    command = [sys.executable, "-m", "tests.fuzz.guided", target.name, *arguments]
    command += [
        "-print_final_stats=1",
        f"-timeout={LONGEST_INPUT_S}",
        f"-artifact_prefix={crashes}/",
        str(corpus),
    ]
    ended = subprocess.run(command, check=False, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)  # noqa: S603 - our own module
    return ended.returncode, ended.stdout.decode(errors="replace")


if __name__ == "__main__":
    sys.exit(main())
