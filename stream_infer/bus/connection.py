"""How every Kafka client of this process reaches the broker: one set of arguments for aiokafka."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, fields
from typing import Any

from aiokafka import errors
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError
from pydantic import SecretStr

from stream_infer.bus.obstacles import Obstacle, find_obstacle
from stream_infer.bus.security import Security, SecurityError, security_arguments
from stream_infer.config import KafkaSettings
from stream_infer.errors import AccessRefusedError, BusError, ConfigError

TRANSACTION_BACKOFF_MS = 5
"""How long a producer waits before it asks again; aiokafka's 100 ms would stall a transaction that
starts while the broker still writes the markers of the one before it."""

REACH_BACKOFF = 0.2
"""Seconds between two attempts to reach a broker that does not answer."""


REFUSALS = (
    errors.TopicAuthorizationFailedError,
    errors.GroupAuthorizationFailedError,
    errors.ClusterAuthorizationFailedError,
    errors.TransactionalIdAuthorizationFailed,
)
"""What a broker answers to those who lack an access-control entry."""

_SECRETS = ("sasl_password", "sasl_oauth_client_secret")
"""They come from the environment, or from the files that `sasl_..._file` name."""


@dataclass(frozen=True, slots=True)
class Connection:
    """The settings of the broker, and the keyword arguments that every aiokafka client takes."""

    settings: KafkaSettings
    arguments: Mapping[str, Any]

    @property
    def bootstrap_servers(self) -> str:
        """The brokers' addresses, separated by commas."""
        return str(self.arguments["bootstrap_servers"])


def connect(settings: KafkaSettings, bootstrap_servers: str | None = None) -> Connection:
    """Return the connection that `settings` describe; it opens no socket.

    `bootstrap_servers` stands in for the setting where the broker is embedded.

    Raises:
        ConfigError: a secret or certificate is missing, cannot be read, or would not be used.
    """
    try:
        arguments = security_arguments(_security(settings), setting_name)
    except SecurityError as error:
        raise ConfigError(str(error)) from error
    servers = bootstrap_servers or settings.bootstrap_servers
    return Connection(settings, {"bootstrap_servers": servers, **arguments})


def setting_name(field: str) -> str:
    """Return the key of a setting of the connection, by its field."""
    return f"kafka.{field}" + (" (environment)" if field in _SECRETS else "")


async def wait_until_reachable(connection: Connection, wait_seconds: float) -> None:
    """Return once a broker has answered.

    Raises:
        BusError: none did within `wait_seconds`, or one refuses, which waiting would not change.
    """
    obstacle: Obstacle | None = None
    try:
        async with asyncio.timeout(wait_seconds):
            while obstacle := await find_obstacle(connection.arguments, setting_name):
                if obstacle.is_final:
                    raise BusError(f"kafka: {obstacle.text}")
                await asyncio.sleep(REACH_BACKOFF)
    except TimeoutError:
        why = f"; {obstacle.text}" if obstacle else ""
        raise BusError(
            f"kafka.bootstrap_servers: no broker answered at {connection.bootstrap_servers} "
            f"within {wait_seconds:g} s{why}"
        ) from None


@asynccontextmanager
async def open_admin(connection: Connection) -> AsyncIterator[Any]:
    """Give an admin client for the length of a context.

    Raises:
        AccessRefusedError: the broker does not allow something within the context.
        BusError: the broker is out of reach, or refused something otherwise.
    """
    admin = AIOKafkaAdminClient(**connection.arguments)
    try:
        await _start(admin, connection)
        yield admin
    except KafkaError as error:
        raise bus_error("the broker refused or did not answer", error) from error
    finally:
        await admin.close()


async def _start(admin: Any, connection: Connection) -> None:
    try:
        await admin.start()
    except errors.KafkaConnectionError as error:
        obstacle = await find_obstacle(connection.arguments, setting_name)
        raise BusError(f"kafka: {obstacle.text if obstacle else error}") from error


def bus_error(what: str, error: BaseException) -> BusError:
    """Return the error that says what failed and why, of the kind that says whether to try again."""
    for reason in (error, error.__cause__):
        if isinstance(reason, REFUSALS):
            return AccessRefusedError(f"{what}: access is refused: {reason}")
    return BusError(f"{what}: {error}")


def _security(settings: KafkaSettings) -> Security:
    given = {each.name: getattr(settings, each.name) for each in fields(Security)}
    revealed: dict[str, Any] = {
        name: value.get_secret_value() if isinstance(value, SecretStr) else value
        for name, value in given.items()
    }
    # The environment goes before a file, which need not even be there then.
    for secret in _SECRETS:
        if revealed[secret]:
            revealed[f"{secret}_file"] = None
    return Security(**revealed)
