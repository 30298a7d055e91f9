"""Rows from topic to topic: the service against its own engine, and against loops around a pipeline."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Final

from loadgen.bench import contenders
from loadgen.bench.buses import Bus, Service
from loadgen.bench.contender import ContenderError
from loadgen.bench.encoding import encoder_directory, encoder_texts
from loadgen.bench.makers import Maker
from loadgen.bench.rounds import Tally, compete
from loadgen.bench.rows import Measure, Row, compare, not_measured
from loadgen.bench.workshop import Workshop
from loadgen.kafka.brokers import EMBEDDED, KAFKA
from loadgen.schedule import Arrivals, Profile

RATE: Final = Measure("events/s")
SHARE: Final = Measure("of the events")
MODEL: Final = "builtin:sentiment"
ENGINE: Final = replace(contenders.ours("ours", MODEL), name="the engine alone")
WARM_UP: Final = 64
LOOP_TEXTS: Final = 400
"""A loop around a pipeline takes half a minute for so many."""
BUDGET_MS: Final = 500.0
LOAD_SHARE: Final = 0.7
ON_TIME: Final = 0.99

_SETTINGS: Final = """
[service]
group = "stream-infer"
[kafka]
bootstrap_servers = "{servers}"
[cache]
max_bytes = 0
[web]
enabled = false
[streams.classify]
task = "classify"
input = "{service.input}"
output = "{service.output}"
dead_letters = "{service.output}"
model = "sentiment"
latency_budget_ms = {budget:.0f}
"""


def serve(servers: str, directory: Path) -> Sequence[str]:
    """Return the command of a worker without a cache, so that no text is free."""
    path = directory / "serve.toml"
    text = _SETTINGS.format(servers=servers, service=OURS, budget=BUDGET_MS)
    path.write_text(text, encoding="utf-8")
    return "stream_infer", "serve", "--log-level", "warning", "--config", str(path)


OURS: Final = Service("stream-infer", "ours", serve)


def loop(name: str, slug: str) -> Service:
    """Return one of the loops around a pipeline."""

    def command(servers: str, directory: Path) -> Sequence[str]:
        del directory
        topics = (f"{slug}.requests", f"{slug}.results")
        return f"loadgen.peers.{slug}", servers, *topics, encoder_directory()

    return Service(name, slug, command)


LOOPS: Final = {
    "e2e_naive": loop("aiokafka loop with a pipeline", "aiokafka_loop"),
    "e2e_faust": loop("Faust take agent with a pipeline", "faust_take"),
}


def against_loops(asked: Collection[str], workshop: Workshop) -> Iterator[Row]:
    """Yield the rows of the loops, on Apache Kafka.

    The embedded broker answers an empty fetch at once: a loop that waits for its turn would take a core.
    """
    loops = {key: LOOPS[key] for key in LOOPS if key in asked}
    texts = encoder_texts(workshop.texts)[:LOOP_TEXTS]
    with Bus(KAFKA, workshop.directory, workshop.threads) as bus:
        services = [OURS, *loops.values()]
        tally = _race(
            {each.name: partial(bus.rate, each, texts) for each in services}, services, bus, workshop
        )
    for key, peer in loops.items():
        yield row_of(key, tally, peer.name)


def against_engine(asked: Collection[str], workshop: Workshop) -> Iterator[Row]:
    """Yield the row of the broker on which the service comes least close to its engine."""
    del asked
    rows = [_on_broker(kind, workshop) for kind in (EMBEDDED, KAFKA)]
    yield min(rows, key=lambda row: row.ratio or 0.0)


def on_time(asked: Collection[str], workshop: Workshop) -> Iterator[Row]:
    """Yield the row of the events that come within their budget at 70 % of what a flood reached."""
    del asked
    texts = encoder_texts(workshop.texts)
    with Bus(EMBEDDED, workshop.directory, workshop.threads) as bus:
        try:
            bus.start(OURS, texts[:WARM_UP])
            shares = [_share_on_time(bus, texts, workshop) for _ in range(workshop.rounds)]
        except ContenderError as error:
            yield not_measured("deadline_70", str(error), is_fault=True)
            return
    yield compare("deadline_70", SHARE, shares, {"the target": [ON_TIME] * len(shares)})


MAKERS: Final = (
    Maker(("e2e_engine",), against_engine),
    Maker(tuple(LOOPS), against_loops),
    Maker(("deadline_70",), on_time),
)


def _on_broker(kind: str, workshop: Workshop) -> Row:
    texts = encoder_texts(workshop.texts)
    with ExitStack() as stack:
        engine = workshop.start(ENGINE, stack)
        engine.run(texts[:WARM_UP])
        bus = stack.enter_context(Bus(kind, workshop.directory, workshop.threads))
        turns: dict[str, Callable[[], float]] = {
            OURS.name: partial(bus.rate, OURS, texts),
            ENGINE.name: lambda: len(texts) / sum(engine.run(texts).seconds),
        }
        tally = _race(turns, [OURS], bus, workshop)
    return replace(row_of("e2e_engine", tally, ENGINE.name), note=f"on the {kind} broker, the worse of two")


def _race(
    turns: Mapping[str, Callable[[], float]], services: Sequence[Service], bus: Bus, workshop: Workshop
) -> Tally:
    """Start the services and let everyone compete; who does not start is out."""
    out: dict[str, ContenderError] = {}
    for service in services:
        workshop.show(f"starting {service.name}, {bus.kind}")
        try:
            bus.start(service, encoder_texts(workshop.texts)[:WARM_UP])
        except ContenderError as error:
            out[service.name] = error
    tally = compete(
        {name: turn for name, turn in turns.items() if name not in out}, workshop.rounds, workshop.show
    )
    tally.out.update(out)
    return tally


def row_of(key: str, tally: Tally, peer: str) -> Row:
    """Return a row of the service against one peer, from what both reached."""
    missing = [str(tally.out[name]) for name in (OURS.name, peer) if name in tally.out]
    if missing:
        return not_measured(key, "; ".join(missing), is_fault=OURS.name in tally.out)
    return compare(key, RATE, tally.figures[OURS.name], {peer: tally.figures[peer]})


def _share_on_time(bus: Bus, texts: Sequence[str], workshop: Workshop) -> float:
    workshop.show("finding the rate of a flood")
    rate = bus.rate(OURS, texts)
    workshop.show(f"{LOAD_SHARE:.0%} of {rate:.0f} events a second")
    recorder = bus.run(OURS, texts, Profile(Arrivals.POISSON, rate * LOAD_SHARE))
    return recorder.latencies.share_within(BUDGET_MS)
