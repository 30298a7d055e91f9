"""The command line: what can be asked of a load, and what it means where nothing is said."""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, Final

from loadgen.broker import SECRETS, Broker, secured
from loadgen.producer import Load
from loadgen.running import Place
from loadgen.schedule import Arrivals, Profile, load_recorded
from loadgen.scrape import TOKEN_VARIABLE
from loadgen.search import Limits
from loadgen.texts import TASKS, Pool, Words, load_bodies, split_by_words
from loadgen.verdict import Ordering
from stream_infer.bus.security import MECHANISMS, PROTOCOLS, Security

MOST_EVENTS: Final = 10_000_000

Command = Callable[[argparse.Namespace], int]


def make_parser(
    description: str, *, run: Command, audit: Command, report: Command, search: Command
) -> argparse.ArgumentParser:
    """Return the parser of all commands; `command` of what it returns does what was asked."""
    parser = argparse.ArgumentParser(prog="python -m loadgen", description=description)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_run(_add_command(commands, "run", run, "send events at a rate of its own and time their outcomes"))
    _add_search(_add_command(commands, "search", search, "find the highest rate that is carried"))
    _add_command(commands, "audit", audit, "prove that each input record has one outcome")
    _add_page(commands, "report", report, ["FILE"], "make a page of a run's report")
    _add_page(commands, "compare", report, ["FIRST", "SECOND"], "make a page of two runs")
    return parser


def topics_of(options: argparse.Namespace) -> tuple[list[str], list[str]]:
    """Return the input and the output topics that are meant."""
    inputs = options.input or [f"requests.{options.task}"]
    return inputs, options.output or [f"results.{options.task}", "dead-letters"]


def load_of(options: argparse.Namespace) -> Load:
    """Return the load that the options of a run describe.

    Raises:
        BodiesError: texts or their mix cannot be used.
        ScheduleError: the recorded schedule cannot be followed.
        OSError: a file cannot be read.
    """
    return _load_of(options, _profile_of(options), options.count, options.max_seconds)


def trial_of(options: argparse.Namespace, rate: float) -> Load:
    """Return the load of a search at one rate: as many events as come in its seconds.

    Raises:
        BodiesError: texts or their mix cannot be used.
        OSError: a file cannot be read.
    """
    seconds = options.warm_up + options.seconds
    profile = Profile(options.arrivals, rate, options.burst_seconds, options.burst_share)
    load = _load_of(options, profile, MOST_EVENTS, seconds)
    return replace(load, run=f"{load.run}-{rate:g}")


def limits_of(options: argparse.Namespace) -> Limits:
    """Return what a search looks for."""
    return Limits(
        budget_ms=options.budget_ms,
        first_rate=min(options.first_rate, options.highest_rate),
        highest_rate=options.highest_rate,
        tolerance=options.tolerance,
        most_trials=options.trials,
    )


def _load_of(options: argparse.Namespace, profile: Profile, count: int, max_seconds: float) -> Load:
    inputs, _ = topics_of(options)
    return Load(
        topic=inputs[0],
        pools=_pools_of(options),
        profile=profile,
        count=count,
        max_seconds=max_seconds,
        run=options.run or f"load-{int(time.time())}",
        keys=options.keys,
        repeat_share=options.repeat_share,
        hot_share=options.hot_share,
        poison_share=options.poison_share,
    )


def place_of(options: argparse.Namespace) -> Place:
    """Return where the options want the load to go.

    Raises:
        SecurityError: they do not say how to reach a secured broker.
    """
    _, outputs = topics_of(options)
    return Place(broker_of(options), outputs, options.producers, options.patience)


def broker_of(options: argparse.Namespace) -> Broker:
    """Return how the options reach the broker.

    Raises:
        SecurityError: they do not say how to reach a secured one.
    """
    given = {each.name: getattr(options, each.name) for each in fields(Security) if each.name not in SECRETS}
    security = Security(**given)
    return secured(options.bootstrap_servers, security, os.environ)


def _pools_of(options: argparse.Namespace) -> list[Pool]:
    """Return a pool for each file and class of length."""
    files = options.texts or [(None, 1.0)]
    return [
        replace(pool, share=pool.share * share)
        for path, share in files
        for pool in split_by_words(load_bodies(options.task, options.seed, path), options.words or ())
    ]


def _profile_of(options: argparse.Namespace) -> Profile:
    arrivals = Arrivals.RECORDED if options.recorded else options.arrivals
    recorded = load_recorded(options.recorded) if options.recorded else ()
    return Profile(arrivals, options.rate, options.burst_seconds, options.burst_share, recorded)


def _add_command(commands: Any, name: str, command: Command, summary: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(name, help=summary, description=summary)
    parser.set_defaults(command=command)
    add = parser.add_argument
    add("--bootstrap-servers", default="localhost:9092")
    add("--task", choices=TASKS, default="classify")
    add("--input", action="append", metavar="TOPIC", help="default: requests.TASK")
    add("--output", action="append", metavar="TOPIC", help="default: results.TASK and dead-letters")
    add("--ordering", type=Ordering, choices=list(Ordering), default=Ordering.KEY, help="what audits expect")
    add("--json", type=Path, metavar="FILE", help="write the whole of it there")
    _add_security(parser)
    return parser


def _add_security(parser: argparse.ArgumentParser) -> None:
    password, secret = SECRETS.values()
    about = f"A password is read from {password}, a client's secret from {secret}, or each from a file."
    group = parser.add_argument_group("a secured broker", about)
    add, default = group.add_argument, Security()
    add("--security-protocol", choices=PROTOCOLS, default=default.security_protocol)
    add("--sasl-mechanism", choices=MECHANISMS, default=default.sasl_mechanism)
    add("--sasl-username", metavar="NAME")
    add("--sasl-password-file", type=Path, metavar="FILE")
    add("--sasl-oauth-token-url", metavar="URL", help="OAUTHBEARER: where tokens are to be had")
    add("--sasl-oauth-client-id", metavar="NAME")
    add("--sasl-oauth-client-secret-file", type=Path, metavar="FILE")
    add("--sasl-oauth-scope", metavar="SCOPE")
    add("--sasl-oauth-ca-file", type=Path, metavar="FILE", help="who vouches for the token endpoint")
    add("--ssl-ca-file", type=Path, metavar="FILE", help="default: the authorities that the system trusts")
    add("--ssl-cert-file", type=Path, metavar="FILE", help="a client's own certificate")
    add("--ssl-key-file", type=Path, metavar="FILE", help="its key, unless the certificate's file has it")


def _add_page(commands: Any, name: str, command: Command, files: list[str], summary: str) -> None:
    parser: argparse.ArgumentParser = commands.add_parser(name, help=summary, description=summary)
    parser.set_defaults(command=command)
    parser.add_argument("files", type=Path, nargs=len(files), metavar=tuple(files))
    parser.add_argument("-o", "--output", type=Path, default=Path("report.html"), help="the HTML file")


def _add_run(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--rate", type=_positive, default=100.0, help="events a second")
    add("--count", type=_count, default=1_000, help="events in all")
    add("--max-seconds", type=_positive, default=3_600.0, help="stop by then, whatever was sent")
    add("--recorded", type=Path, metavar="FILE", help="a file of arrival times in seconds, one a line")
    add("--audit", action="store_true", help="afterwards, audit what the run sent")
    add(
        "--metrics",
        metavar="URL",
        help=f"a worker's /metrics, asked each second; {TOKEN_VARIABLE} holds its token",
    )
    add("--warm-up", type=float, default=0.0, help="seconds at the start whose latencies do not count")
    _add_arrivals(parser)
    _add_contents(parser)
    _add_place(parser)


def _add_search(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--budget-ms", type=_positive, default=500.0, help="p99 must not exceed it")
    add("--first-rate", type=_positive, default=10.0, help="events a second to begin with")
    add("--highest-rate", type=_positive, default=100_000.0, help="go no higher")
    add("--tolerance", type=_positive, default=0.05, help="how near the answer must be, as a share of it")
    add("--trials", type=_count, default=20, help="how many rates to try at most")
    add("--seconds", type=_positive, default=20.0, help="of each rate, after the warm-up")
    add("--warm-up", type=float, default=5.0, help="seconds of each rate whose latencies do not count")
    _add_arrivals(parser)
    _add_contents(parser)
    _add_place(parser)


def _add_arrivals(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    own = [each for each in Arrivals if each is not Arrivals.RECORDED]
    add("--arrivals", type=Arrivals, choices=own, default=Arrivals.POISSON)
    add("--burst-seconds", type=_positive, default=10.0, help="how often bursts begin")
    add(
        "--burst-share", type=_share, default=0.1, help="the part of that time in which a burst's events come"
    )
    add("--run", help="a name that the events' ids begin with")


def _add_contents(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--texts", type=_file, action="append", metavar="FILE[:SHARE]", help="texts, or .jsonl of bodies")
    add("--words", type=_words, action="append", metavar="LEAST-MOST:SHARE", help="a class of length")
    add("--keys", type=int, default=64, help="distinct keys; 0 sends none")
    add("--hot-share", type=_share, default=0.0, help="share of events under one key")
    add("--repeat-share", type=_share, default=0.0, help="share of events whose text was sent before")
    add("--poison-share", type=_share, default=0.0, help="share of events that must become dead letters")
    add("--seed", type=int, default=0)


def _add_place(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--producers", type=_count, default=1, help="producers that send at the same time")
    add("--patience", type=_positive, default=60.0, help="seconds to wait for an outcome more")


def _positive(text: str) -> float:
    if not (number := float(text)) > 0:
        raise argparse.ArgumentTypeError(f"{text} is not above 0")
    return number


def _count(text: str) -> int:
    if (number := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"{text} is not above 0")
    return number


def _share(text: str) -> float:
    if not 0 <= (number := float(text)) <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not within 0 and 1")
    return number


def _file(text: str) -> tuple[Path, float]:
    name, colon, share = text.rpartition(":")
    return (Path(name), _positive(share)) if colon else (Path(text), 1.0)


def _words(text: str) -> Words:
    lengths, _, share = text.partition(":")
    least, _, most = lengths.partition("-")
    return Words(int(least), int(most), _positive(share or "1"))
