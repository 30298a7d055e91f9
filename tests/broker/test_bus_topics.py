"""Topics are created as declared, never changed, and differences are named."""

import uuid
from typing import Any

import pytest

from stream_infer.bus.connection import Connection, connect, wait_until_reachable
from stream_infer.bus.embedded import free_port
from stream_infer.bus.topics import TopicSpec, apply, check, load_specs
from stream_infer.config import KafkaSettings
from stream_infer.errors import BusError


def declare(name: str, **settings: Any) -> TopicSpec:
    fields: dict[str, Any] = {
        "description": "",
        "direction": "internal",
        "partitions": 2,
        "key": "",
        **settings,
    }
    return TopicSpec(name=name, **fields)


async def test_declared_topics_are_created_once(connection: Connection) -> None:
    prefix = uuid.uuid4().hex[:8]
    specs = [spec.model_copy(update={"name": f"{prefix}.{spec.name}"}) for spec in load_specs()]

    found = await check(connection, specs)

    assert [f"{spec.name}: missing" for spec in specs] == [str(difference) for difference in found]
    assert [spec.name for spec in specs] == await apply(connection, specs)
    assert [] == await apply(connection, specs)
    assert [] == await check(connection, specs)


async def test_differences_are_named_and_left_alone(connection: Connection) -> None:
    name = f"topic-{uuid.uuid4().hex[:8]}"
    await apply(connection, [declare(name, partitions=2, retention_ms=1_000_000)])
    wanted = declare(name, partitions=4, cleanup_policy="compact")

    assert [] == await apply(connection, [wanted])

    assert [
        f"{name}: partitions is 2, declared is 4",
        f"{name}: cleanup.policy is delete, declared is compact",
    ] == [str(difference) for difference in await check(connection, [wanted])]
    longer = declare(name, retention_ms=2_000_000)
    assert [f"{name}: retention.ms is 1000000, declared is 2000000"] == [
        str(difference) for difference in await check(connection, [longer])
    ]


async def test_more_partitions_than_declared_are_fine(connection: Connection) -> None:
    name = f"topic-{uuid.uuid4().hex[:8]}"
    await apply(connection, [declare(name, partitions=3)])

    assert [] == await check(connection, [declare(name, partitions=2)])


async def test_a_reachable_broker_is_reached(connection: Connection) -> None:
    await wait_until_reachable(connection, 10.0)


async def test_a_broker_out_of_reach_is_named() -> None:
    connection = connect(KafkaSettings(bootstrap_servers=f"127.0.0.1:{free_port()}"))

    with pytest.raises(BusError, match=r"no broker answered at 127\.0\.0\.1"):
        await wait_until_reachable(connection, 0.2)
    with pytest.raises(BusError):
        await apply(connection, load_specs())
