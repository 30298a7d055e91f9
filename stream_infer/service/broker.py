"""Reaching the broker that the settings name, and starting it where it is embedded."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import structlog

from stream_infer.bus.connection import Connection, connect, wait_until_reachable
from stream_infer.bus.embedded import EmbeddedBroker
from stream_infer.bus.topics import apply, check, specs_for, worker_specs_for
from stream_infer.config import Settings
from stream_infer.errors import ConfigError

log = structlog.get_logger(__name__)

REACH_SECONDS = 10.0
"""How long a broker may take to answer when a command starts."""


@asynccontextmanager
async def open_connection(settings: Settings) -> AsyncIterator[Connection]:
    """Yield the connection to a broker that answers; an embedded one is started and given its topics.

    Raises:
        BusError: no broker answered.
        ConfigError: the settings of the connection are not usable.
    """
    kafka = settings.kafka
    if not kafka.is_embedded:
        connection = connect(kafka)
        await wait_until_reachable(connection, REACH_SECONDS)
        yield connection
        return
    async with EmbeddedBroker(kafka.data_dir, kafka.embedded_port) as broker:
        connection = connect(kafka, broker.bootstrap_servers)
        await apply(connection, specs_for(settings))
        yield connection


async def check_topics(connection: Connection, settings: Settings) -> None:
    """Return if every topic that a worker uses exists; other differences are only logged.

    Raises:
        ConfigError: topics are missing; all are named.
    """
    differences = await check(connection, worker_specs_for(settings))
    missing = [difference.topic for difference in differences if difference.actual is None]
    if missing:
        raise ConfigError(
            f"topics are missing: {', '.join(missing)}; create them with: stream-infer topics apply"
        )
    for difference in differences:
        log.warning("topic_differs", difference=str(difference))
