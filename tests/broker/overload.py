"""More than a worker can do: `python -m tests.broker.overload --broker kafka --seconds 300` measures it.

One worker with the packaged model and exactly-once delivery, on one broker, goes through this:

1. floods, which say what it can do at most;
2. so many times that rate on `bulk`, a stream that processes late records, while a trickle goes to `quiet`,
   a stream of another model, whose budget must hold meanwhile; then the lag drains;
3. the same rate on `strict`, a stream that sheds: what it admits must be on time.

No text comes twice, for equal ones in flight are computed once.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import count, cycle, islice
from pathlib import Path
from statistics import median
from typing import Any, Final

from loadgen.broker import Broker
from loadgen.gauges import MEMORY, Look
from loadgen.kafka.brokers import EMBEDDED, KINDS, running_broker
from loadgen.measure import SATURATING_RATE
from loadgen.producer import Load
from loadgen.recorder import Recorder
from loadgen.running import Place, carry_out
from loadgen.schedule import Arrivals, Profile
from loadgen.scrape import scrape, watching
from loadgen.texts import Pool, load_bodies
from stream_infer.bus.connection import connect
from stream_infer.bus.topics import TopicSpec, apply
from stream_infer.config import KafkaSettings
from stream_infer.log import configure_logging
from tests.broker.service_process import ServiceProcess

PARTITIONS: Final = 4
BUDGET_MS: Final = 500
QUIET_RATE: Final = 2.0
PATIENCE: Final = 120.0
FLOODS: Final = 3
BULK, STRICT, QUIET = "bulk", "strict", "quiet"
LATE: Final = {BULK: "process", STRICT: "shed", QUIET: "process"}
DEAD_LETTERS: Final = "overload.dead-letters"
SETTINGS: Final = """
[service]
group = "overload"
[kafka]
bootstrap_servers = "{servers}"
[cache]
max_bytes = 0
[models.quiet]
kind = "embed"
source = "builtin:sentiment"
"""
STREAM: Final = """
[streams.{name}]
task = "classify"
input = "{name}.requests"
output = "{name}.results"
dead_letters = "{dead_letters}"
model = "{model}"
latency_budget_ms = {budget}
late = "{late}"
"""


@dataclass(frozen=True, slots=True)
class Overload:
    """A running worker on a broker, and texts that no stream has had yet."""

    servers: str
    worker: ServiceProcess
    texts: Sequence[str]
    numbers: count[int]

    async def run(self, stream: str, profile: Profile, seconds: float, events: int) -> Recorder:
        """Return what became of a load on a stream.

        Raises:
            TimeoutError: outcomes did not all come back.
        """
        place = Place(Broker(self.servers), [f"{stream}.results", DEAD_LETTERS], patience=PATIENCE)
        number = next(self.numbers)
        bodies = [
            {"text": f"{text} ({number}-{index})"}
            for index, text in enumerate(islice(cycle(self.texts), events))
        ]
        load = Load(
            topic=f"{stream}.requests",
            pools=[Pool(bodies)],
            profile=profile,
            count=events,
            max_seconds=seconds,
            run=f"{stream}-{number}",
        )
        carried = await carry_out(load, place, seed=number)
        if not carried.is_complete:
            raise TimeoutError(f"{load.run}: {carried.recorder.outstanding} left, {carried.recorder.fault}")
        return carried.recorder

    async def flood(self, events: int) -> float:
        """Return the outcomes a second of a load that comes at once."""
        recorder = await self.run(BULK, Profile(Arrivals.CONSTANT, SATURATING_RATE), PATIENCE, events)
        return recorder.outcomes / recorder.last_outcome

    async def overloaded(self, stream: str, rate: float, seconds: float) -> Recorder:
        """Return what became of a steady load."""
        return await self.run(stream, Profile(Arrivals.POISSON, rate), seconds, round(rate * seconds * 1.2))

    async def rebalances(self) -> float:
        """Return how often the group has dealt its partitions out."""
        return (await scrape(f"{self.worker.url}/metrics")).samples["stream_infer_rebalances_total"]


@asynccontextmanager
async def overload(broker_kind: str, directory: Path) -> AsyncIterator[Overload]:
    """Run a broker and a worker with its three streams."""
    async with running_broker(broker_kind, directory) as broker:
        servers = broker.bootstrap_servers
        topics = [f"{name}.{end}" for name in LATE for end in ("requests", "results")]
        specs = [
            TopicSpec(name=topic, description="", direction="internal", partitions=PARTITIONS, key="")
            for topic in (*topics, DEAD_LETTERS)
        ]
        await apply(connect(KafkaSettings(), servers), specs)
        texts = [body["text"] for body in load_bodies("classify", seed=7)]
        async with ServiceProcess(settings_for(servers), directory) as worker:
            yield Overload(servers, worker, texts, count())


def settings_for(servers: str) -> str:
    """Return the worker's settings."""
    streams = [
        STREAM.format(
            name=name,
            model="quiet" if name == QUIET else "sentiment",
            late=late,
            budget=BUDGET_MS,
            dead_letters=DEAD_LETTERS,
        )
        for name, late in LATE.items()
    ]
    return SETTINGS.format(servers=servers) + "".join(streams)


async def measure(broker_kind: str, factor: float, seconds: float, flood: int) -> dict[str, Any]:
    """Go through all steps and return what was seen."""
    with tempfile.TemporaryDirectory() as name:
        async with overload(broker_kind, Path(name)) as found:
            rates = [await found.flood(flood) for _ in range(FLOODS + 1)][1:]
            _show(f"floods: {', '.join(f'{rate:.0f}' for rate in rates)}/s")
            rate = median(rates)
            return {
                "broker": broker_kind,
                "factor": factor,
                "seconds": seconds,
                "maximum_per_s": round(rate, 1),
                "processed": await _processed(found, rate, factor, seconds),
                "shed": await _shed(found, rate, factor, seconds),
            }


async def _processed(found: Overload, rate: float, factor: float, seconds: float) -> dict[str, Any]:
    """Overload the stream that processes everything, beside a quiet one, and let the lag drain."""
    rebalances = await found.rebalances()
    async with watching(f"{found.worker.url}/metrics") as looks:
        bulk, quiet = await asyncio.gather(
            found.overloaded(BULK, rate * factor, seconds), found.overloaded(QUIET, QUIET_RATE, seconds)
        )
    drained = bulk.left_when_sent / (bulk.last_outcome - bulk.last_sent)
    _show(f"lag of {bulk.left_when_sent} drained at {drained:.0f}/s")
    return {
        "sent": bulk.sent,
        "outcomes": bulk.outcomes,
        "lag_when_sent": bulk.left_when_sent,
        "drained_per_s": round(drained, 1),
        "drained_to_maximum": round(drained / rate, 3),
        "rebalances": await found.rebalances() - rebalances,
        "most_mb": _most_mb(looks),
        "quiet_on_time": round(quiet.latencies.share_within(BUDGET_MS), 3),
        "quiet_p99_ms": quiet.latencies.percentile_ms(99.0),
    }


async def _shed(found: Overload, rate: float, factor: float, seconds: float) -> dict[str, Any]:
    """Overload the stream that sheds."""
    strict = await found.overloaded(STRICT, rate * factor, seconds)
    results = strict.result_latencies
    return {
        "sent": strict.sent,
        "results": strict.results,
        "dead_letters": strict.dead_letters,
        "results_to_maximum": round(strict.results / strict.last_outcome / rate, 3),
        "results_on_time": round(results.share_within(BUDGET_MS), 3),
        "results_p99_ms": results.percentile_ms(99.0),
    }


def _most_mb(looks: Sequence[Look]) -> Mapping[str, float]:
    """Return the most that each gauge of memory said."""
    names = sorted({name for look in looks for name in look.values if name.endswith(MEMORY)})
    return {name: round(max(look.values.get(name, 0.0) for look in looks) / 1e6, 1) for name in names}


def _show(line: str) -> None:
    print(line, file=sys.stderr)  # noqa: T201 - progress


def main() -> None:
    """Print what was seen as JSON."""
    parser = argparse.ArgumentParser(prog="python -m tests.broker.overload", description=__doc__)
    parser.add_argument("--broker", choices=KINDS, default=EMBEDDED)
    parser.add_argument("--factor", type=float, default=5.0, help="how many times the maximum rate is sent")
    parser.add_argument("--seconds", type=float, default=60.0, help="of each overload")
    parser.add_argument("--flood", type=int, default=1_000, help="events of each flood")
    options = parser.parse_args()
    configure_logging("warning", as_json=False)
    found = asyncio.run(measure(options.broker, options.factor, options.seconds, options.flood))
    print(json.dumps(found, indent=2))  # noqa: T201 - its output


if __name__ == "__main__":
    main()
