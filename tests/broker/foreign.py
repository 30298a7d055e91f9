"""Clients in other languages: librdkafka stands for them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import confluent_kafka

from stream_infer.bus.connection import Connection
from tests.broker.probes import PATIENCE


def produce(connection: Connection, topic: str, messages: list[dict[str, Any]], **options: str) -> None:
    """Write the messages and wait until the broker has them."""
    producer = confluent_kafka.Producer(
        {"bootstrap.servers": connection.bootstrap_servers, "partitioner": "murmur2_random", **options}
    )
    for message in messages:
        producer.produce(topic, **message)
    assert 0 == producer.flush(PATIENCE)


def consume(connection: Connection, group: str, topics: Sequence[str], count: int) -> list[Any]:
    """Return so many committed messages, from the beginning of the topics on."""
    consumer = confluent_kafka.Consumer(
        {
            "bootstrap.servers": connection.bootstrap_servers,
            "group.id": f"{group}-foreign",
            "auto.offset.reset": "earliest",
            "isolation.level": "read_committed",
        }
    )
    try:
        consumer.subscribe(list(topics))
        messages = consumer.consume(count, PATIENCE)
    finally:
        consumer.close()
    assert not any(message.error() for message in messages)
    return list(messages)
