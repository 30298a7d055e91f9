"""How every Kafka client of this process reaches the broker: one set of arguments for aiokafka."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError

from stream_infer.config import KafkaSettings
from stream_infer.errors import BusError, ConfigError

TRANSACTION_BACKOFF_MS = 5
"""How long a producer waits before it asks again; aiokafka's 100 ms would stall a transaction that
starts while the broker still writes the markers of the one before it."""

REACH_BACKOFF = 0.2
"""Seconds between two attempts to reach a broker that does not answer."""


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
        ConfigError: a secret or certificate cannot be read, or user name and password are not both set.
    """
    arguments: dict[str, Any] = {
        "bootstrap_servers": bootstrap_servers or settings.bootstrap_servers,
        "security_protocol": settings.security_protocol,
    }
    if "SSL" in settings.security_protocol:
        arguments["ssl_context"] = _ssl_context(settings)
    if "SASL" in settings.security_protocol:
        arguments |= {"sasl_mechanism": settings.sasl_mechanism, **_credentials(settings)}
    return Connection(settings, arguments)


async def wait_until_reachable(connection: Connection, wait_seconds: float) -> None:
    """Return once a broker has answered.

    Raises:
        BusError: none did within `wait_seconds`.
    """
    try:
        async with asyncio.timeout(wait_seconds):
            while not await _answers(connection):  # noqa: ASYNC110 - a broker sets no event
                await asyncio.sleep(REACH_BACKOFF)
    except TimeoutError:
        raise BusError(
            f"kafka.bootstrap_servers: no broker answered at {connection.bootstrap_servers} "
            f"within {wait_seconds:g} s"
        ) from None


@asynccontextmanager
async def open_admin(connection: Connection) -> AsyncIterator[Any]:
    """Give an admin client for the length of a context.

    Raises:
        BusError: the broker is out of reach, or refused something within the context.
    """
    admin = AIOKafkaAdminClient(**connection.arguments)
    try:
        await admin.start()
        yield admin
    except KafkaError as error:
        raise BusError(f"the broker refused or did not answer: {error}") from error
    finally:
        await admin.close()


async def _answers(connection: Connection) -> bool:
    try:
        async with open_admin(connection):
            return True
    except (BusError, OSError):
        return False


def _ssl_context(settings: KafkaSettings) -> ssl.SSLContext:
    _check_readable("kafka.ssl_ca_file", settings.ssl_ca_file)
    _check_readable("kafka.ssl_cert_file", settings.ssl_cert_file)
    _check_readable("kafka.ssl_key_file", settings.ssl_key_file)
    try:
        context = ssl.create_default_context(cafile=settings.ssl_ca_file)
        if settings.ssl_cert_file:
            context.load_cert_chain(settings.ssl_cert_file, settings.ssl_key_file)
    except ssl.SSLError as error:
        raise ConfigError(f"kafka.ssl_*_file: not a usable certificate or key: {error.reason}") from error
    return context


def _credentials(settings: KafkaSettings) -> dict[str, str]:
    password = _password(settings)
    if not settings.sasl_username or not password:
        raise ConfigError(
            f"kafka.security_protocol: {settings.security_protocol} needs kafka.sasl_username and "
            "kafka.sasl_password (environment) or kafka.sasl_password_file"
        )
    return {"sasl_plain_username": settings.sasl_username, "sasl_plain_password": password}


def _password(settings: KafkaSettings) -> str | None:
    if settings.sasl_password:
        return settings.sasl_password.get_secret_value()
    if settings.sasl_password_file is None:
        return None
    _check_readable("kafka.sasl_password_file", settings.sasl_password_file)
    return settings.sasl_password_file.read_text(encoding="utf-8").rstrip("\r\n")


def _check_readable(key: str, path: Path | None) -> None:
    if path is None:
        return
    try:
        path.open("rb").close()
    except OSError as error:
        raise ConfigError(f"{key}: {path} cannot be read: {error.strerror}") from error
