"""A service that promises nothing but exactly once, to see what the bus itself costs: see `hotpath`.

`python -m loadgen.peers.bare_loop SERVERS INPUT OUTPUT GROUP PARTITIONS` fetches, reads the text, takes a
vector from a dictionary, scores it, and writes a result with its position: one transactional producer for
each input partition, one batch for each output partition. It judges, orders, counts and fears nothing.
"""

from __future__ import annotations

import asyncio
import hashlib
import sys
from collections.abc import Sequence
from typing import Any

import msgpack
import numpy as np
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from numpy.typing import NDArray

from stream_infer.bus.batches import OutRecord, group_by_target
from stream_infer.bus.consumer import harden

LABELS = ("negative", "neutral", "positive")
DIMENSION = 384
MAX_FETCH = 1024
"""Records taken at once, as the worker does."""


class BareLoop:
    """One consumer, one producer for each of its partitions, and all vectors it ever needed."""

    def __init__(self, servers: str, topics: tuple[str, str], group: str, partitions: int) -> None:
        self._servers = servers
        self._input, self._output = topics
        self._group = group
        self._partitions = partitions
        self._vectors: dict[bytes, NDArray[np.float32]] = {}
        self._weight = np.random.default_rng(0).standard_normal((len(LABELS), DIMENSION), np.float32)

    async def run(self) -> None:
        """Serve until killed."""
        consumer = AIOKafkaConsumer(
            self._input,
            bootstrap_servers=self._servers,
            group_id=self._group,
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            isolation_level="read_committed",
        )
        # Or it would take a core from whoever else is measured on a broker that answers at once.
        harden(consumer)
        await consumer.start()
        producers = [await self._producer(partition) for partition in range(self._partitions)]
        while True:
            fetched = await consumer.getmany(timeout_ms=200, max_records=MAX_FETCH)
            await asyncio.gather(
                *(
                    self._transact(producers[place.partition], place, found)
                    for place, found in fetched.items()
                )
            )

    async def _producer(self, partition: int) -> Any:
        producer = AIOKafkaProducer(
            bootstrap_servers=self._servers,
            transactional_id=f"{self._group}.{partition}",
            retry_backoff_ms=5,
        )
        await producer.start()
        return producer

    async def _transact(self, producer: Any, place: TopicPartition, messages: Sequence[Any]) -> None:
        results = [self._result(message) for message in messages]
        async with producer.transaction():
            sent = []
            for (topic, partition), indexes in group_by_target(
                results, {self._output: self._partitions}, place.partition
            ).items():
                batch = producer.create_batch()
                for index in indexes:
                    result = results[index]
                    if not batch.append(
                        timestamp=None, key=result.key, value=result.value, headers=result.headers
                    ):
                        sent.append(await producer.send_batch(batch, topic, partition=partition))
                        batch = producer.create_batch()
                        batch.append(
                            timestamp=None, key=result.key, value=result.value, headers=result.headers
                        )
                sent.append(await producer.send_batch(batch, topic, partition=partition))
            await producer.send_offsets_to_transaction({place: messages[-1].offset + 1}, self._group)
            await asyncio.gather(*sent)

    def _result(self, message: Any) -> OutRecord:
        identity = f"{message.topic}/{message.partition}/{message.offset}"
        scores = self._scores(msgpack.unpackb(message.value)["text"])
        best = int(scores.argmax())
        named = dict(zip(LABELS, scores.tolist(), strict=True))
        body = {"id": identity, "label": LABELS[best], "score": named[LABELS[best]], "scores": named}
        return OutRecord(self._output, message.key, msgpack.packb(body), [("ce_id", identity.encode())])

    def _scores(self, text: str) -> NDArray[np.float32]:
        key = hashlib.blake2b(text.encode(), digest_size=16).digest()
        vector = self._vectors.get(key)
        if vector is None:
            seed = int.from_bytes(key[:8], "little")
            vector = self._vectors[key] = np.random.default_rng(seed).standard_normal(DIMENSION, np.float32)
        powers = np.exp(self._weight.dot(vector) / DIMENSION)
        scores: NDArray[np.float32] = powers / powers.sum()
        return scores


if __name__ == "__main__":
    servers, source, target, group, partitions = sys.argv[1:]
    asyncio.run(BareLoop(servers, (source, target), group, int(partitions)).run())
