"""What counting and tracing cost: `python -m tests.broker.overhead` compares floods with and without.

One worker on one Apache Kafka is flooded again and again: while it counts nothing, with its metrics, and
while it traces every record besides. It stays the same process, because two of them differ by more than
what is looked for: by where their threads run, and how their memory lies. The texts, the models and the
settings are those of `figures`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import tempfile
from collections import defaultdict
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from itertools import chain, islice, permutations, repeat
from pathlib import Path
from statistics import median
from typing import NamedTuple

import psutil
from aiohttp import web

from loadgen.broker import Broker
from loadgen.kafka.process import KafkaProcess
from loadgen.measure import SATURATING_RATE
from loadgen.running import Place, carry_out
from loadgen.schedule import Arrivals, Profile
from stream_infer.bus.connection import connect
from stream_infer.bus.embedded import free_port
from stream_infer.bus.topics import apply, specs_for
from stream_infer.config_loading import load_settings
from stream_infer.log import configure_logging
from stream_infer.schemas import Task
from stream_infer.web.probe import wait_until_ready
from tests.broker.figures import START_SECONDS, load_of
from tests.broker.switched_worker import Watching

WARM_UPS = 3
"""Floods before those that count, because a process learns what its batches cost."""
PAUSE_SECONDS = 2.0
"""Between floods: the spans of one are exported before the next begins."""


class Flood(NamedTuple):
    """How a worker fared: outcomes a second, and its own CPU time for each in milliseconds."""

    rate: float
    cpu_ms: float


@asynccontextmanager
async def receiver() -> AsyncIterator[str]:
    """Take traces in and look at none; yields where to send them."""
    application = web.Application(client_max_size=2**26)
    application.router.add_post("/v1/traces", _swallow)
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}/v1/traces"
    finally:
        await runner.cleanup()


async def _swallow(request: web.Request) -> web.Response:
    await request.read()
    return web.Response(content_type="application/x-protobuf")


@asynccontextmanager
async def worker(environment: Mapping[str, str], port: int) -> AsyncIterator[psutil.Process]:
    """Run a worker that can be switched."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.broker.switched_worker", "serve", "--log-level", "warning"),
        env={**os.environ, **environment},
    )
    try:
        await wait_until_ready(f"http://127.0.0.1:{port}", timeout=START_SECONDS)
        yield psutil.Process(process.pid)
    finally:
        process.terminate()
        await process.wait()


@asynccontextmanager
async def service() -> AsyncIterator[tuple[str, psutil.Process]]:
    """Run a broker, a receiver and a worker; yields the broker's address and the worker."""
    settings = load_settings(web={"port": free_port()})
    with tempfile.TemporaryDirectory() as name:
        async with KafkaProcess(Path(name)) as broker, receiver() as endpoint:
            await apply(connect(settings.kafka, broker.bootstrap_servers), specs_for(settings))
            environment = {
                "STREAM_INFER__KAFKA__BOOTSTRAP_SERVERS": broker.bootstrap_servers,
                "STREAM_INFER__WEB__PORT": str(settings.web.port),
                "STREAM_INFER__CACHE__MAX_BYTES": "0",
                "STREAM_INFER__TRACES__ENABLED": "true",
                "STREAM_INFER__TRACES__ENDPOINT": endpoint,
            }
            async with worker(environment, settings.web.port) as process:
                yield broker.bootstrap_servers, process


async def flood(bootstrap_servers: str, process: psutil.Process, run: str, count: int) -> Flood:
    """Return how the worker fared with a load that came at once, the export of its spans included."""
    place = Place(Broker(bootstrap_servers), ["results.classify", "dead-letters"], patience=120.0)
    load = replace(
        load_of(Task.CLASSIFY, count), profile=Profile(Arrivals.CONSTANT, SATURATING_RATE), run=run
    )
    before = _cpu_seconds(process)
    carried = await carry_out(load, place, seed=7)
    await asyncio.sleep(PAUSE_SECONDS)
    if not carried.is_complete:
        raise TimeoutError(f"{run}: {carried.recorder.outstanding} events without outcome")
    outcomes = carried.recorder.outcomes
    return Flood(outcomes / carried.recorder.last_outcome, 1e3 * (_cpu_seconds(process) - before) / outcomes)


def _cpu_seconds(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


async def overhead(rounds: int, count: int) -> dict[str, object]:
    """Flood the worker in each state once a round; the order goes through all there are."""
    found: defaultdict[Watching, list[Flood]] = defaultdict(list)
    orders = islice(chain.from_iterable(repeat(list(permutations(Watching)))), rounds)
    async with service() as (bootstrap_servers, process):
        for number in range(WARM_UPS):
            await flood(bootstrap_servers, process, f"warm-up-{number}", count)
        for number, order in enumerate(orders):
            for watching in order:
                process.send_signal(watching)
                run = f"{watching.name.lower()}-{number}"
                found[watching].append(await flood(bootstrap_servers, process, run, count))
                rate, cpu_ms = found[watching][-1]
                print(f"{run}: {rate:.1f}/s, {cpu_ms:.3f} ms", file=sys.stderr)  # noqa: T201 - progress
    return {
        watching.name.lower(): _summary(floods, found[Watching.NOTHING]) for watching, floods in found.items()
    }


def _summary(floods: Sequence[Flood], bare: Sequence[Flood]) -> dict[str, object]:
    return {
        "events_per_s": [round(each.rate, 1) for each in floods],
        "median": round(median(each.rate for each in floods), 1),
        "to_nothing": round(
            median(each.rate / base.rate for each, base in zip(floods, bare, strict=True)), 3
        ),
        "worker_cpu_ms": round(median(each.cpu_ms for each in floods), 3),
    }


def main() -> None:
    """Print the rates as JSON; `to_nothing` is the median of a round's ratios."""
    parser = argparse.ArgumentParser(prog="python -m tests.broker.overhead", description=__doc__)
    parser.add_argument("--rounds", type=int, default=12, help="a multiple of six has every order as often")
    parser.add_argument("--count", type=int, default=1_200, help="events of each flood")
    options = parser.parse_args()
    configure_logging("warning", as_json=False)
    print(json.dumps(asyncio.run(overhead(options.rounds, options.count)), indent=2))  # noqa: T201 - its output


if __name__ == "__main__":
    main()
