"""Workers restarted one after the other under load: `python -m tests.broker.rolling --broker kafka`.

Three workers of one group serve a steady load, first in peace and then while each is stopped with SIGTERM
and started again. Their model is a double, so that latencies are those of the delivery. With `--static`
workers have instance ids: a restart causes no rebalance, and the partitions of the worker wait for it.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, Final

from loadgen import auditor
from loadgen.broker import Broker
from loadgen.kafka.brokers import KAFKA, KINDS, running_broker
from loadgen.producer import Load
from loadgen.recorder import Recorder
from loadgen.running import Place, carry_out
from loadgen.schedule import Arrivals, Profile
from loadgen.texts import Pool, load_bodies
from loadgen.verdict import Verdict
from stream_infer.bus.connection import connect
from stream_infer.bus.topics import TopicSpec, apply
from stream_infer.config import KafkaSettings
from stream_infer.log import configure_logging
from tests.broker.service_process import SCORING_STREAM, ServiceProcess

WORKERS: Final = 3
PARTITIONS: Final = 6
INPUT, OUTPUT, DEAD_LETTERS = "rolling.requests", "rolling.results", "rolling.dead-letters"
PATIENCE: Final = 60.0


@dataclass(frozen=True, slots=True)
class Fleet:
    """Workers of one group on a broker."""

    servers: str
    workers: list[ServiceProcess]
    runs: count[int]

    async def load(self, rate: float, seconds: float) -> Recorder:
        """Return what became of a steady load.

        Raises:
            TimeoutError: outcomes did not all come back.
        """
        load = Load(
            topic=INPUT,
            pools=[Pool(load_bodies("classify", seed=7))],
            profile=Profile(Arrivals.POISSON, rate),
            count=round(rate * seconds * 2),
            max_seconds=seconds,
            run=f"rolling-{next(self.runs)}",
        )
        place = Place(Broker(self.servers), [OUTPUT, DEAD_LETTERS], patience=PATIENCE)
        carried = await carry_out(load, place, seed=7)
        if not carried.is_complete:
            raise TimeoutError(f"{carried.recorder.outstanding} left, {carried.recorder.fault}")
        return carried.recorder

    async def restart_each(self, pause: float, within: float) -> list[float]:
        """Stop and start each worker, with so many seconds of peace before; return how long each took.

        Raises:
            TimeoutError: that took longer than `within`.
        """
        took = []
        async with asyncio.timeout(within):
            for worker in self.workers:
                await asyncio.sleep(pause)
                began = time.monotonic()
                await worker.stop()
                await worker.start()
                await worker.ready()
                took.append(time.monotonic() - began)
        return took

    async def audit(self) -> Verdict:
        """Judge all that went in and came out."""
        return await auditor.audit(Broker(self.servers), [INPUT], [OUTPUT, DEAD_LETTERS])


@asynccontextmanager
async def fleet(broker_kind: str, directory: Path, *, is_static: bool) -> AsyncIterator[Fleet]:
    """Run a broker and workers."""
    async with AsyncExitStack() as stack:
        broker = await stack.enter_async_context(running_broker(broker_kind, directory))
        servers = broker.bootstrap_servers
        specs = [
            TopicSpec(name=topic, description="", direction="internal", partitions=PARTITIONS, key="")
            for topic in (INPUT, OUTPUT, DEAD_LETTERS)
        ]
        await apply(connect(KafkaSettings(), servers), specs)
        settings = SCORING_STREAM.format(
            group="rolling", bootstrap_servers=servers, input=INPUT, output=OUTPUT, dead_letters=DEAD_LETTERS
        )
        workers = [
            ServiceProcess(settings, directory, name=name, instance_id=name if is_static else "")
            for name in (f"worker-{number}" for number in range(WORKERS))
        ]
        for worker in workers:
            await stack.enter_async_context(worker)
        yield Fleet(servers, workers, count())


async def measure(
    broker_kind: str, rate: float, seconds: float, pause: float, *, is_static: bool
) -> dict[str, Any]:
    """Return latencies in peace and during the restarts, and the verdict on all of it."""
    with tempfile.TemporaryDirectory() as name:
        async with fleet(broker_kind, Path(name), is_static=is_static) as found:
            await found.load(rate, pause)
            peace = await found.load(rate, seconds)
            print(f"in peace: {peace.latencies.summary()}", file=sys.stderr)  # noqa: T201 - progress
            rolling, restarts = await asyncio.gather(
                found.load(rate, seconds), found.restart_each(pause, within=seconds)
            )
            verdict = await found.audit()
    before, during = (each.latencies.percentile_ms(99.0) or 0.0 for each in (peace, rolling))
    return {
        "broker": broker_kind,
        "static": is_static,
        "rate": rate,
        "restarts_s": [round(each, 2) for each in restarts],
        "in_peace_ms": peace.latencies.summary(),
        "rolling_ms": rolling.latencies.summary(),
        "p99_ratio": round(during / before, 2),
        "verdict": verdict.as_dict(),
    }


def main() -> None:
    """Print what was seen as JSON."""
    parser = argparse.ArgumentParser(prog="python -m tests.broker.rolling", description=__doc__)
    parser.add_argument("--broker", choices=KINDS, default=KAFKA)
    parser.add_argument("--rate", type=float, default=100.0, help="events a second")
    parser.add_argument("--seconds", type=float, default=45.0, help="of the load, each time")
    parser.add_argument("--pause", type=float, default=3.0, help="seconds between two restarts")
    parser.add_argument("--static", action="store_true", help="give workers instance ids")
    options = parser.parse_args()
    configure_logging("warning", as_json=False)
    found = asyncio.run(
        measure(options.broker, options.rate, options.seconds, options.pause, is_static=options.static)
    )
    print(json.dumps(found, indent=2))  # noqa: T201 - its output


if __name__ == "__main__":
    main()
