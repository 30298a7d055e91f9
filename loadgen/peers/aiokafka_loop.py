"""The loop that is glued together first: aiokafka around transformers' `pipeline`, at least once.

`python -m loadgen.peers.aiokafka_loop SERVERS INPUT OUTPUT MODEL`. Results carry the event's id and
place; the position is committed when they are with the broker.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from typing import Any, Final

import msgpack
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from transformers import pipeline

from loadgen.peers.transformers_pipeline import BATCH

GROUP: Final = "aiokafka-loop"
WAIT_MS: Final = 100


async def serve(servers: str, source: str, target: str, model: str) -> None:
    """Serve until killed."""
    embed = pipeline("feature-extraction", model=model)
    consumer = AIOKafkaConsumer(
        source,
        bootstrap_servers=servers,
        group_id=GROUP,
        enable_auto_commit=False,
        auto_offset_reset="earliest",
    )
    producer = AIOKafkaProducer(bootstrap_servers=servers)
    async with consumer, producer:
        while True:
            fetched = await consumer.getmany(timeout_ms=WAIT_MS, max_records=BATCH)
            if messages := [message for found in fetched.values() for message in found]:
                values = await asyncio.to_thread(results, embed, [message.value for message in messages])
                sent = [
                    await producer.send(target, value, message.key, headers=headers_of(message))
                    for message, value in zip(messages, values, strict=True)
                ]
                await asyncio.gather(*sent)
                await consumer.commit()


def headers_of(message: Any) -> list[tuple[str, bytes]]:
    """Return what tells whose result it is: the event's own headers, and where it stood."""
    place = {"topic": message.topic, "partition": message.partition, "offset": message.offset}
    return [*message.headers, *((f"source_{name}", str(value).encode()) for name, value in place.items())]


def results(embed: Any, values: Sequence[bytes]) -> list[bytes]:
    """Return the body of each event's result: the mean of its first token's state stands for a label."""
    texts = [msgpack.unpackb(value)["text"] for value in values]
    states = embed(texts, batch_size=BATCH, return_tensors=True, truncation=True)
    return [msgpack.packb({"score": float(state[0, 0].mean())}) for state in states]


if __name__ == "__main__":
    asyncio.run(serve(*sys.argv[1:]))
