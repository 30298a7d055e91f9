"""What counting and tracing cost: `python -m tests.broker.overhead` compares floods with and without.

Workers take turns on one Apache Kafka: one that counts nothing, one with its metrics, and one that
traces every record besides. The texts, the models and the settings are those of `figures`.
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
from pathlib import Path
from statistics import median

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

BARE, COUNTED, TRACED = "bare", "metrics", "metrics and traces"
MODULES = {BARE: "tests.broker.bare_worker", COUNTED: "stream_infer", TRACED: "stream_infer"}
SERVERS, PORT = "STREAM_INFER__KAFKA__BOOTSTRAP_SERVERS", "STREAM_INFER__WEB__PORT"
WARM_UP = 150
"""Events before those that count, because the first batches of a process are slow."""


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
async def worker(module: str, environment: Mapping[str, str]) -> AsyncIterator[None]:
    """Run a worker of its own for each flood, so that none is warmer than another."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", module, "serve", "--log-level", "warning"),
        env={**os.environ, **environment},
    )
    try:
        await wait_until_ready(f"http://127.0.0.1:{environment[PORT]}", timeout=START_SECONDS)
        yield
    finally:
        process.terminate()
        await process.wait()


async def flood(bootstrap_servers: str, run: str, count: int) -> float:
    """Return the outcomes a second of a load that comes at once."""
    place = Place(Broker(bootstrap_servers), ["results.classify", "dead-letters"], patience=120.0)
    load = replace(
        load_of(Task.CLASSIFY, count), profile=Profile(Arrivals.CONSTANT, SATURATING_RATE), run=run
    )
    await carry_out(replace(load, count=WARM_UP, run=f"{run}-warm-up"), place, seed=3)
    carried = await carry_out(load, place, seed=7)
    if not carried.is_complete:
        raise TimeoutError(f"{run}: {carried.recorder.outstanding} events without outcome")
    return carried.recorder.outcomes / carried.recorder.last_outcome


@asynccontextmanager
async def environments() -> AsyncIterator[dict[str, dict[str, str]]]:
    """Run a broker and a receiver of traces; yields what each kind of worker is started with."""
    settings = load_settings(web={"port": free_port()})
    with tempfile.TemporaryDirectory() as name:
        async with KafkaProcess(Path(name)) as broker, receiver() as endpoint:
            await apply(connect(settings.kafka, broker.bootstrap_servers), specs_for(settings))
            common = {
                SERVERS: broker.bootstrap_servers,
                PORT: str(settings.web.port),
                "STREAM_INFER__CACHE__MAX_BYTES": "0",
            }
            traces = {"STREAM_INFER__TRACES__ENABLED": "true", "STREAM_INFER__TRACES__ENDPOINT": endpoint}
            yield {BARE: common, COUNTED: common, TRACED: common | traces}


async def overhead(rounds: int, count: int) -> dict[str, object]:
    """Measure each kind of worker once a round, in an order that moves on from round to round."""
    rates: defaultdict[str, list[float]] = defaultdict(list)
    kinds = list(MODULES)
    async with environments() as found:
        for number in range(rounds):
            for kind in kinds[number % len(kinds) :] + kinds[: number % len(kinds)]:
                async with worker(MODULES[kind], found[kind]):
                    run = f"{kind}-{number}".replace(" ", "-")
                    rates[kind].append(await flood(found[kind][SERVERS], run, count))
                print(f"round {number}, {kind}: {rates[kind][-1]:.1f}/s", file=sys.stderr)  # noqa: T201 - progress
    return {kind: _summary(each, rates[BARE]) for kind, each in rates.items()}


def _summary(rates: Sequence[float], bare: Sequence[float]) -> dict[str, object]:
    return {
        "events_per_s": [round(rate, 1) for rate in rates],
        "median": round(median(rates), 1),
        "to_bare": round(median(rate / other for rate, other in zip(rates, bare, strict=True)), 3),
    }


def main() -> None:
    """Print the rates as JSON; `to_bare` is the median of a round's ratios."""
    parser = argparse.ArgumentParser(prog="python -m tests.broker.overhead", description=__doc__)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--count", type=int, default=1_000, help="events of each flood")
    options = parser.parse_args()
    configure_logging("warning", as_json=False)
    print(json.dumps(asyncio.run(overhead(options.rounds, options.count)), indent=2))  # noqa: T201 - its output


if __name__ == "__main__":
    main()
