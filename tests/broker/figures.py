"""End-to-end figures: `python -m tests.broker.figures --broker embedded|kafka` prints a table of them.

The real models, the default settings but for the cache, which is off so that no text is free the
second time, and exactly-once delivery. Load is loadgen's; see `loadgen.measure` for what is measured.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import tempfile
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

from loadgen.kafka.brokers import EMBEDDED, KINDS, running_broker
from loadgen.measure import measure
from loadgen.producer import Load
from loadgen.schedule import Arrivals, Profile
from loadgen.texts import Pool, load_bodies
from stream_infer.bus.client_codec import encode_document
from stream_infer.bus.connection import connect
from stream_infer.bus.embedded import free_port
from stream_infer.bus.publisher import Publisher
from stream_infer.bus.topics import apply, specs_for
from stream_infer.config_loading import load_settings
from stream_infer.demo.children import run_role
from stream_infer.demo.events import load_documents
from stream_infer.demo.run import until_indexed
from stream_infer.log import configure_logging
from stream_infer.schemas import Task
from stream_infer.web.probe import wait_until_ready

PACKAGES = ("torch", "transformers", "bitsandbytes", "aiokafka", "noida-db")
START_SECONDS = 120.0


@asynccontextmanager
async def service(broker_kind: str, directory: Path) -> AsyncIterator[str]:
    """Run a broker and both roles, with the demo's documents indexed; yields the broker's address."""
    settings = load_settings(web={"port": free_port()})
    async with AsyncExitStack() as stack:
        broker = await stack.enter_async_context(running_broker(broker_kind, directory))
        connection = connect(settings.kafka, broker.bootstrap_servers)
        await apply(connection, specs_for(settings))
        environment = {
            "STREAM_INFER__KAFKA__BOOTSTRAP_SERVERS": broker.bootstrap_servers,
            "STREAM_INFER__WEB__PORT": str(settings.web.port),
            "STREAM_INFER__CACHE__MAX_BYTES": "0",
        }
        for name in ("serve", "streams"):
            await stack.enter_async_context(run_role(name, environment, directory / f"{name}.log"))
        async with Publisher(connection) as publisher:
            await publisher.publish(
                [
                    encode_document("documents", each.document, each.text, collection=each.collection)
                    for each in load_documents()
                ]
            )
        url = f"http://127.0.0.1:{settings.web.port}"
        await wait_until_ready(url, timeout=START_SECONDS)
        await until_indexed(url)
        yield broker.bootstrap_servers


async def figures(broker_kind: str, count: int) -> dict[str, object]:
    """Measure every lane, one after the other."""
    lanes: dict[str, object] = {}
    with tempfile.TemporaryDirectory() as name:
        async with service(broker_kind, Path(name)) as bootstrap_servers:
            for task in Task:
                outputs = [f"results.{task}", "dead-letters"]
                lanes[task] = asdict(await measure(load_of(task, count), bootstrap_servers, outputs, seed=7))
    return {
        "broker": broker_kind,
        "lanes": lanes,
        "machine": f"{os.cpu_count()} cores, {platform.machine()}",
        "versions": {package: version(package) for package in PACKAGES},
    }


def load_of(task: Task, count: int) -> Load:
    """Return a load of distinct texts; those who measure replace its profile."""
    bodies = load_bodies(task, seed=7)
    return Load(
        topic=f"requests.{task}",
        pools=[Pool(bodies)],
        profile=Profile(Arrivals.POISSON, rate=1.0),
        # Equal texts that are in flight together are computed once: no text is to come twice.
        count=min(count, len(bodies)),
        max_seconds=600.0,
        keys=64,
        run=f"figures-{task}",
    )


def main() -> None:
    """Print the figures as JSON."""
    parser = argparse.ArgumentParser(prog="python -m tests.broker.figures", description=__doc__)
    parser.add_argument("--broker", choices=KINDS, default=EMBEDDED)
    parser.add_argument("--count", type=int, default=400, help="events of each lane and run")
    options = parser.parse_args()
    configure_logging("warning", as_json=False)
    print(json.dumps(asyncio.run(figures(options.broker, options.count)), indent=2))  # noqa: T201 - its output


if __name__ == "__main__":
    main()
