"""What an operator does to Apache Kafka while it runs; aiokafka's admin client knows only some of it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping, Sequence
from typing import Any, Final

from aiokafka.admin import NewPartitions
from aiokafka.protocol.admin import AlterPartitionReassignmentsRequest
from confluent_kafka.admin import (  # type: ignore[attr-defined] # it does export them
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    ResourceType,
)

from loadgen.kafka.node import run_tool
from stream_infer.bus.connection import Connection, open_admin

_CONFIG_TOOL: Final = "kafka.admin.ConfigCommand"
_TIMEOUT_S: Final = 20.0
_PAUSE_S: Final = 0.3

Leaders = Mapping[tuple[str, int], int]
"""Which node leads each partition."""


async def set_topic(connection: Connection, topic: str, settings: Mapping[str, str | None]) -> None:
    """Change settings of a topic; None puts a setting back to its default."""
    entries = [
        ConfigEntry(
            name,
            value or "",
            incremental_operation=AlterConfigOpType.SET if value is not None else AlterConfigOpType.DELETE,
        )
        for name, value in settings.items()
    ]
    resource = ConfigResource(ResourceType.TOPIC, topic, incremental_configs=entries)
    client = _client(connection)  # what it was asked is given up when nothing refers to it any more
    futures = client.incremental_alter_configs([resource], request_timeout=_TIMEOUT_S)
    await asyncio.gather(*(asyncio.wrap_future(future) for future in futures.values()))


async def add_partition(connection: Connection, topic: str) -> int:
    """Give a topic one partition more, and return how many it has."""
    async with open_admin(connection) as admin:
        (described,) = await admin.describe_topics([topic])
        count = len(described["partitions"]) + 1
        await admin.create_partitions({topic: NewPartitions(count)})
    return int(count)


async def move_leaders(connection: Connection, topics: Sequence[str]) -> int:
    """Have other nodes lead the partitions of topics, and return how many have moved by the end.

    1. Make the next of each partition's replicas the preferred one. 2. Wait for the controller to see it.
    """
    async with open_admin(connection) as admin:
        described = await admin.describe_topics(list(topics))
        before = _leaders(described)
        placed: list[Any] = [(topic["topic"], _rotated(topic), {}) for topic in described]
        request = AlterPartitionReassignmentsRequest(10_000, placed, {})
        await admin._send_to_controller(request)
        moved = 0
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_TIMEOUT_S):
                while moved < len(before):
                    await asyncio.sleep(_PAUSE_S)
                    after = _leaders(await admin.describe_topics(list(topics)))
                    moved = sum(1 for place, leader in after.items() if before.get(place) != leader)
    return moved


async def limit_clients(connection: Connection, bytes_per_second: int | None) -> None:
    """Throttle what every client reads and writes, or no more."""
    names = ("producer_byte_rate", "consumer_byte_rate")
    change = (
        ("--delete-config", ",".join(names))
        if bytes_per_second is None
        else ("--add-config", ",".join(f"{name}={bytes_per_second}" for name in names))
    )
    server = connection.bootstrap_servers
    everyone = ("--entity-type", "clients", "--entity-default")
    await run_tool(_CONFIG_TOOL, "--bootstrap-server", server, "--alter", *change, *everyone)


def _client(connection: Connection) -> Any:
    return AdminClient({"bootstrap.servers": connection.bootstrap_servers})


def _leaders(described: Any) -> Leaders:
    return {
        (topic["topic"], partition["partition"]): partition["leader"]
        for topic in described
        for partition in topic["partitions"]
    }


def _rotated(topic: Any) -> list[tuple[int, list[int], dict[int, bytes]]]:
    """Return each partition of a topic with its replicas, the second in the first place."""
    return [
        (partition["partition"], [*partition["replicas"][1:], partition["replicas"][0]], {})
        for partition in topic["partitions"]
    ]
