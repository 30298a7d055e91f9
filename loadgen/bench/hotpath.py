"""What the bus costs: `python -m loadgen.bench.hotpath --broker embedded|kafka`.

Two figures of the real worker, exactly once, beside those of a bare loop of the same input and output,
in turns on one broker:

- events per second of the process's own CPU time, with every text in the cache: a flood that waits on the
  topic when the process is let go. The replica and the broker are not counted.
- what an idle bus adds to the engine's time for one event with a text that is new, from before it is sent
  until its committed result is read.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import re
import signal
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import msgpack
from aiokafka import AIOKafkaProducer, TopicPartition

from loadgen.bench.buses import PARTITIONS
from loadgen.kafka.brokers import EMBEDDED, KINDS, running_broker
from loadgen.texts import load_bodies
from stream_infer.bus.batches import OutRecord
from stream_infer.bus.connection import Connection, connect
from stream_infer.bus.consumer import make_consumer
from stream_infer.bus.offsets import CommittedOffsets
from stream_infer.bus.publisher import Publisher
from stream_infer.bus.topics import TopicSpec, apply, specs_for
from stream_infer.config import KafkaSettings
from stream_infer.config_loading import load_settings
from stream_infer.log import configure_logging
from stream_infer.schemas import Partition

WORKER, BARE = "worker", "bare"
DISTINCT = 400
"""Different texts of a flood, all of them in the cache before it."""
KEYS = 64
PATIENCE = 120.0
PAUSE = 0.02
"""Seconds between two looks at what is committed, and the least between two events on an idle bus."""
WORKER_SETTINGS = """
[service]
group = "worker"
[kafka]
bootstrap_servers = "{servers}"
[web]
enabled = false
[streams.classify]
task = "classify"
input = "worker.requests"
output = "worker.results"
model = "sentiment"
"""
BARE_TOPICS = [
    TopicSpec(name=f"bare.{end}", description="", direction="internal", partitions=PARTITIONS, key="")
    for end in ("requests", "results")
]
_ENGINE_MS = re.compile(rb"engine;dur=([0-9.]+)")


@dataclass(frozen=True, slots=True)
class Contestant:
    """A process under measurement; its group is called as it is, and its topics are its own."""

    name: str
    pid: int
    connection: Connection

    @property
    def input(self) -> str:
        """Where its events come from."""
        return f"{self.name}.requests"

    @property
    def output(self) -> str:
        """Where its results go."""
        return f"{self.name}.results"

    @property
    def busy_seconds(self) -> float:
        """The CPU time it has taken so far, its children's not counted."""
        fields = Path(f"/proc/{self.pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    async def finished(self, count: int) -> None:
        """Return once the group has committed the first `count` records."""
        partitions = [Partition(self.input, number) for number in range(PARTITIONS)]
        async with asyncio.timeout(PATIENCE), CommittedOffsets(self.connection, self.name) as offsets:
            while sum(each.offset or 0 for each in (await offsets.read(partitions)).values()) < count:  # noqa: ASYNC110 - a broker sets no event
                await asyncio.sleep(PAUSE)


class Feed:
    """Events for one contestant, which has had `sent` of them so far."""

    def __init__(self, contestant: Contestant, texts: Sequence[str]) -> None:
        """`texts` are all different; the last ones are kept for the idle bus, which wants new ones."""
        self._contestant = contestant
        self._cached = texts[:DISTINCT]
        self._fresh = iter(texts[DISTINCT:])
        self._sent = 0

    async def warm_up(self) -> None:
        """Have every text of the floods in the cache."""
        await self._publish(self._cached)
        await self._contestant.finished(self._sent)

    async def flood(self, count: int) -> float:
        """Return the events that the process handles in a second of its CPU time."""
        contestant = self._contestant
        os.kill(contestant.pid, signal.SIGSTOP)
        try:
            await self._publish(islice(cycle(self._cached), count))
            before = contestant.busy_seconds
        finally:
            os.kill(contestant.pid, signal.SIGCONT)
        await contestant.finished(self._sent)
        return count / (contestant.busy_seconds - before)

    async def added_ms(self, count: int, draw: random.Random) -> list[float]:
        """Return the milliseconds that each of some events took beyond the engine's, one at a time."""
        contestant = self._contestant
        servers = contestant.connection.bootstrap_servers
        consumer = make_consumer({"bootstrap_servers": servers})
        async with consumer, AIOKafkaProducer(bootstrap_servers=servers) as producer:
            consumer.assign([TopicPartition(contestant.output, number) for number in range(PARTITIONS)])
            await consumer.seek_to_end()
            return [await self._added_ms(producer, consumer, draw) for _ in range(count)]

    async def _added_ms(self, producer: Any, consumer: Any, draw: random.Random) -> float:
        await asyncio.sleep(PAUSE * (1 + draw.random()))
        text, key = next(self._fresh), b"key-%d" % draw.randrange(KEYS)
        self._sent += 1
        started = time.perf_counter()
        sending = await producer.send(self._contestant.input, msgpack.packb({"text": text}), key)
        async with asyncio.timeout(PATIENCE):
            result = await consumer.getone()
        took = (time.perf_counter() - started) * 1000
        await sending
        return took - _engine_ms(dict(result.headers))

    async def _publish(self, texts: Iterable[str]) -> None:
        records = [
            OutRecord(self._contestant.input, b"key-%d" % (number % KEYS), msgpack.packb({"text": text}))
            for number, text in enumerate(texts)
        ]
        self._sent += len(records)
        async with Publisher(self._contestant.connection) as publisher:
            await publisher.publish(records)


def _engine_ms(headers: Mapping[str, bytes]) -> float:
    """Return the milliseconds in which a model ran, which the bare loop has none of."""
    found = _ENGINE_MS.search(headers.get("server-timing", b""))
    return float(found[1]) if found else 0.0


@asynccontextmanager
async def running(*command: str) -> AsyncIterator[int]:
    """Run a Python module while the context lasts; yields its process id."""
    process = await asyncio.create_subprocess_exec(sys.executable, "-m", *command)
    try:
        yield process.pid
    finally:
        process.terminate()
        await process.wait()


@asynccontextmanager
async def contestants(broker_kind: str) -> AsyncIterator[list[Contestant]]:
    """Run a broker, the worker and the bare loop."""
    async with AsyncExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        broker = await stack.enter_async_context(running_broker(broker_kind, directory))
        servers = broker.bootstrap_servers
        connection = connect(KafkaSettings(), servers)
        settings = directory / "worker.toml"
        settings.write_text(WORKER_SETTINGS.format(servers=servers), encoding="utf-8")
        await apply(connection, [*specs_for(load_settings(settings)), *BARE_TOPICS])
        serve = ("stream_infer", "serve", "--log-level", "warning", "--config", str(settings))
        bare = ("loadgen.peers.bare_loop", servers, "bare.requests", "bare.results", BARE, str(PARTITIONS))
        yield [
            Contestant(name, await stack.enter_async_context(running(*command)), connection)
            for name, command in ((WORKER, serve), (BARE, bare))
        ]


@dataclass(frozen=True, slots=True)
class Costs:
    """What was measured, by contestant.

    Events per second of CPU time of each round, and the milliseconds of every single event.
    """

    rates: Mapping[str, Sequence[float]]
    added_ms: Mapping[str, Sequence[float]]


async def measure(broker_kind: str, rounds: int, count: int, singles: int) -> Costs:
    """Measure both contestants once a round, in turns."""
    texts = [body["text"] for body in load_bodies("classify", seed=7)]
    rates: defaultdict[str, list[float]] = defaultdict(list)
    added: defaultdict[str, list[float]] = defaultdict(list)
    draw = random.Random(7)
    async with contestants(broker_kind) as found:
        feeds = {contestant.name: Feed(contestant, texts) for contestant in found}
        for feed in feeds.values():
            await feed.warm_up()
        for number in range(rounds):
            for name, feed in feeds.items():
                rates[name].append(await feed.flood(count))
                added[name] += await feed.added_ms(singles, draw)
                print(f"round {number}, {name}: {rates[name][-1]:.0f}/s", file=sys.stderr)  # noqa: T201 - progress
    return Costs(rates, added)


def as_document(broker_kind: str, costs: Costs) -> dict[str, object]:
    """Return what is printed as JSON."""
    return {
        "broker": broker_kind,
        "events_per_busy_core_second": {
            name: _rates(found, costs.rates[BARE]) for name, found in costs.rates.items()
        },
        "idle_added_ms": {name: _latencies(found) for name, found in costs.added_ms.items()},
    }


def _rates(rates: Sequence[float], bare: Sequence[float]) -> dict[str, object]:
    return {
        "rounds": [round(rate) for rate in rates],
        "median": round(median(rates)),
        "to_bare": round(median(rate / other for rate, other in zip(rates, bare, strict=True)), 3),
    }


def _latencies(added: Sequence[float]) -> dict[str, float]:
    cuts = quantiles(added, n=100)
    return {"p50": round(cuts[49], 2), "p90": round(cuts[89], 2), "p99": round(cuts[98], 2)}


def main() -> None:
    """Print both figures as JSON; `to_bare` is the median of a round's ratios."""
    parser = argparse.ArgumentParser(prog="python -m loadgen.bench.hotpath", description=__doc__)
    parser.add_argument("--broker", choices=KINDS, default=EMBEDDED)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--count", type=int, default=40_000, help="events of each flood")
    parser.add_argument("--singles", type=int, default=100, help="events on an idle bus, each round")
    options = parser.parse_args()
    configure_logging("warning", as_json=False)
    found = asyncio.run(measure(options.broker, options.rounds, options.count, options.singles))
    print(json.dumps(as_document(options.broker, found), indent=2))  # noqa: T201 - its output


if __name__ == "__main__":
    main()
