"""`python -m loadgen`: sends events at a rate of its own, then prints what it did as JSON."""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import time
from collections.abc import Sequence
from pathlib import Path

from loadgen.producer import Load, send_load
from loadgen.schedule import Arrivals
from loadgen.texts import TASKS, load_bodies


def main(arguments: Sequence[str] | None = None) -> None:
    """Send the load that the command line describes and print its summary."""
    options = _parse(arguments)
    load = Load(
        topic=options.topic or f"requests.{options.task}",
        bodies=load_bodies(options.task, options.seed, options.texts),
        rate=options.rate,
        count=options.count,
        max_seconds=options.max_seconds,
        arrivals=options.arrivals,
        repeat_share=options.repeat_share,
        keys=options.keys,
        run=options.run or f"load-{int(time.time())}",
    )
    summary = asyncio.run(send_load(load, options.bootstrap_servers, random.Random(options.seed)))
    print(json.dumps(summary))  # noqa: T201 - the summary is the command's output


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m loadgen", description=__doc__)
    add = parser.add_argument
    add("--bootstrap-servers", default="localhost:9092")
    add("--task", choices=TASKS, default="classify")
    add("--topic", help="default: requests.TASK")
    add("--rate", type=_positive, default=100.0, help="events a second")
    add("--count", type=int, default=1_000, help="events in all")
    add("--max-seconds", type=_positive, default=3_600.0, help="stop by then, whatever was sent")
    add("--arrivals", type=Arrivals, choices=list(Arrivals), default=Arrivals.POISSON)
    add("--repeat-share", type=float, default=0.0, help="share of events whose text was sent before")
    add("--keys", type=int, default=64, help="distinct keys; 0 sends none")
    add("--texts", type=Path, help="a file with a text on each line")
    add("--seed", type=int, default=0)
    add("--run", help="a name that the events' ids begin with")
    return parser.parse_args(arguments)


def _positive(text: str) -> float:
    if (number := float(text)) <= 0:
        raise argparse.ArgumentTypeError(f"{text} is not above 0")
    return number


if __name__ == "__main__":
    main()
