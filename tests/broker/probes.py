"""What the tests of the bus write with, and look with."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from aiokafka import AIOKafkaProducer
from aiokafka.record.default_records import _DefaultRecordBatchBuilderPy

from stream_infer.bus.batches import OutRecord
from stream_infer.bus.connection import Connection
from stream_infer.bus.follower import read_present
from stream_infer.bus.publisher import Publisher
from stream_infer.schemas import Partition, Record

PATIENCE = 60.0
"""Seconds after which a test gives up on what it waits for."""


async def write(
    connection: Connection, topic: str, values: Sequence[bytes], key: bytes | None = None
) -> None:
    """Write values to a topic and wait until the broker has them."""
    async with Publisher(connection) as publisher:
        await publisher.publish([OutRecord(topic, key, value) for value in values])


async def write_name(connection: Connection, topic: str, name: bytes) -> None:
    """Write a record with a header whose name is any bytes, as other clients can."""

    class Name(str):
        __slots__ = ()

        def encode(self, *_: object) -> bytes:
            return name

    async with AIOKafkaProducer(**connection.arguments) as producer:
        batch = producer.create_batch()
        batch._builder = _DefaultRecordBatchBuilderPy(
            2, 0, is_transactional=0, producer_id=-1, producer_epoch=-1, base_sequence=0, batch_size=10_000
        )
        batch.append(timestamp=None, key=None, value=b"poison", headers=[(Name(), b"h")])
        await (await producer.send_batch(batch, topic, partition=0))


async def read_committed(connection: Connection, topic: str) -> list[Record]:
    """Return every committed record that the topic holds now."""
    found: list[Record] = []
    async with asyncio.timeout(PATIENCE):
        await read_present(connection, [topic], found.extend)
    return found


async def read_values(connection: Connection, topic: str) -> list[bytes | None]:
    """Return the values of every committed record that the topic holds now."""
    return [record.value for record in await read_committed(connection, topic)]


class Owner:
    """Remembers what the group gave and took, and can be waited on."""

    def __init__(self) -> None:
        self.assigned: set[Partition] = set()
        self.calls: list[tuple[str, frozenset[Partition]]] = []
        self.rewound: list[tuple[Partition, int]] = []
        self.changed = asyncio.Event()

    def on_rewound(self, partition: Partition, end: int) -> None:
        """Note that the broker lost records of a partition."""
        self.rewound.append((partition, end))

    async def on_assigned(self, partitions: frozenset[Partition]) -> None:
        """Take them."""
        self.calls.append(("assigned", partitions))
        self.assigned |= partitions
        self.changed.set()

    async def on_revoked(self, partitions: frozenset[Partition]) -> None:
        """Give them up."""
        self.calls.append(("revoked", partitions))
        self.assigned -= partitions
        self.changed.set()

    async def wait_for(self, count: int) -> None:
        """Return once exactly `count` partitions are assigned."""
        async with asyncio.timeout(PATIENCE):
            while len(self.assigned) != count:
                self.changed.clear()
                await self.changed.wait()

    async def wait_for_some(self, all_of_them: int) -> None:
        """Return once a part of so many partitions is assigned."""
        async with asyncio.timeout(PATIENCE):
            while not 0 < len(self.assigned) < all_of_them:
                self.changed.clear()
                await self.changed.wait()
