"""Reaching the broker that the settings name, and starting it where it is embedded."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import structlog

from stream_infer.bus.connection import Connection, connect, wait_until_reachable
from stream_infer.bus.embedded import EmbeddedBroker
from stream_infer.bus.topics import apply, check, require, specs_for, worker_specs_for
from stream_infer.config import Settings
from stream_infer.errors import AccessRefusedError

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

    A worker need not be allowed to see how topics are set.

    Raises:
        ConfigError: topics are missing; all are named.
        AccessRefusedError: topics are hidden from this worker; all are named.
    """
    specs = worker_specs_for(settings)
    await require(connection, [spec.name for spec in specs])
    try:
        differences = await check(connection, specs)
    except AccessRefusedError as error:
        log.info("topics_not_compared", error=str(error))
        return
    for difference in differences:
        log.warning("topic_differs", difference=str(difference))
