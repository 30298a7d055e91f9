"""A Faust agent that takes batches and runs transformers' `pipeline` on them, at least once.

`python -m loadgen.peers.faust_take SERVERS INPUT OUTPUT MODEL`. As Faust's guide to agents shows
batches: `take` with a size and a time; `take_events` also gives keys and headers.
"""

from __future__ import annotations

import asyncio
import sys
from typing import Any, Final

import faust
from faust.worker import Worker
from transformers import pipeline

from loadgen.peers.aiokafka_loop import headers_of, results
from loadgen.peers.transformers_pipeline import BATCH

WITHIN: Final = 0.1
"""Seconds that a batch waits to be full."""
PARTITIONS: Final = 4


def make_app(servers: str, source: str, target: str, model: str) -> faust.App:
    """Return the application, with its model loaded."""
    embed = pipeline("feature-extraction", model=model)
    app = faust.App(
        "faust-take",
        broker=f"aiokafka://{servers}",
        store="memory://",
        topic_partitions=PARTITIONS,
        web_enabled=False,
        autodiscover=False,
        # Topics are there already.
        topic_allow_declare=False,
        topic_disable_leader=True,
    )
    inputs = app.topic(source, value_type=bytes, value_serializer="raw", key_serializer="raw")
    outputs = app.topic(target, value_type=bytes, value_serializer="raw", key_serializer="raw")

    async def embed_batches(stream: Any) -> None:
        async for events in stream.take_events(BATCH, within=WITHIN):
            values = await asyncio.to_thread(results, embed, [event.value for event in events])
            for event, value in zip(events, values, strict=True):
                await outputs.send(key=event.key, value=value, headers=headers_of(event.message))

    app.agent(inputs)(embed_batches)
    return app


if __name__ == "__main__":
    Worker(make_app(*sys.argv[1:]), loglevel="WARNING").execute_from_commandline()
