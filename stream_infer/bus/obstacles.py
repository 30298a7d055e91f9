"""Why a broker cannot be reached, in the words of what its user has set.

aiokafka's clients say only that no server could be reached. Here one connection is tried by itself, so
that the reason is at hand: an expired certificate, a wrong password, a listener that wants TLS.

It knows brokers and aiokafka, and nothing of the service: any client may use it.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

from aiokafka import errors
from aiokafka.conn import collect_hosts, create_conn
from aiokafka.protocol.metadata import MetadataRequest

from stream_infer.bus.security import Naming
from stream_infer.bus.tokens import TokenError

TRY_MS: Final = 5_000
"""How long one server may take to answer."""
ALERT_SECONDS: Final = 2.0
"""How long a broker may take to say why it closes a connection."""

_EXPIRED, _HOSTNAME_MISMATCH, _IP_MISMATCH = 10, 62, 64
"""Of OpenSSL's X509_V_ERR_*."""
_SASL_ERRORS: Final = (
    errors.SaslAuthenticationFailed,
    errors.AuthenticationFailedError,
    errors.AuthenticationMethodNotSupported,
)


@dataclass(frozen=True, slots=True)
class Obstacle:
    """Why a server cannot be reached; `is_final` where waiting will not help."""

    text: str
    is_final: bool = False


async def find_obstacle(arguments: Mapping[str, Any], name: Naming) -> Obstacle | None:
    """Return why none of the servers in aiokafka's `arguments` can be reached, or None if one can.

    An obstacle that waiting does not remove goes before one that may pass.
    """
    found: list[Obstacle] = []
    for host, port, _ in collect_hosts(arguments["bootstrap_servers"]):
        obstacle = await _try(host, port, arguments, name)
        if obstacle is None:
            return None
        found.append(obstacle)
    return next((obstacle for obstacle in found if obstacle.is_final), found[-1])


async def _try(host: str, port: int, arguments: Mapping[str, Any], name: Naming) -> Obstacle | None:
    options = {option: value for option, value in arguments.items() if option != "bootstrap_servers"}
    try:
        connection = await create_conn(host, port, request_timeout_ms=TRY_MS, **options)
        try:
            await connection.send(MetadataRequest([]))
        finally:
            await connection.close()
    except (OSError, errors.KafkaError, TimeoutError) as error:
        cause = await _underlying(host, port, arguments, error)
        obstacle = _explain(cause, host, options, name)
        return Obstacle(f"{host}:{port}: {obstacle.text}", obstacle.is_final)
    return None


async def _underlying(host: str, port: int, arguments: Mapping[str, Any], error: Exception) -> Any:
    """Return what is behind a connection that was closed without a word.

    By TLS 1.3 a broker says what it thinks of a client's certificate only after the client takes the
    connection for open.
    """
    context = arguments.get("ssl_context")
    if context is None or not isinstance(error, errors.KafkaConnectionError) or isinstance(error, TokenError):
        return error
    try:
        async with asyncio.timeout(ALERT_SECONDS):
            reader, writer = await asyncio.open_connection(host, port, ssl=context)
            try:
                await reader.read(1)
            finally:
                writer.close()
                with suppress(OSError):
                    await writer.wait_closed()
    except ssl.SSLError as alert:
        return alert
    except (OSError, TimeoutError):
        pass
    return error


def _explain(error: Exception, host: str, options: Mapping[str, Any], name: Naming) -> Obstacle:
    if isinstance(error, ssl.SSLCertVerificationError):
        return _explain_certificate(error, host, name)
    if isinstance(error, ssl.SSLError):
        return _explain_tls(error, options, name)
    if isinstance(error, errors.KafkaError):
        return _explain_refusal(error, options, name)
    return _explain_silence(error, options, name)


def _explain_silence(error: Exception, options: Mapping[str, Any], name: Naming) -> Obstacle:
    if isinstance(error, socket.gaierror):
        return Obstacle(f"no such host ({name('bootstrap_servers')})")
    if isinstance(error, TimeoutError):
        return Obstacle(f"no answer within {TRY_MS / 1000:g} s; {_doubt(options, name)}")
    if isinstance(error, OSError) and error.strerror:
        return Obstacle(error.strerror)
    return _closed(options, name)


def _explain_certificate(error: ssl.SSLCertVerificationError, host: str, name: Naming) -> Obstacle:
    if error.verify_code in {_HOSTNAME_MISMATCH, _IP_MISMATCH}:
        why = f"the broker's certificate is for another host than {host} ({name('bootstrap_servers')})"
    elif error.verify_code == _EXPIRED:
        why = "the broker's certificate has expired, or that of its authority"
    else:
        why = (
            f"the broker's certificate is not trusted: {error.verify_message} "
            f"({name('ssl_ca_file')} names the authority's)"
        )
    return Obstacle(why, is_final=True)


def _explain_tls(error: ssl.SSLError, options: Mapping[str, Any], name: Naming) -> Obstacle:
    reason = error.reason or str(error)
    if "ALERT" in reason and ("CERT" in reason or "UNKNOWN_CA" in reason):
        own = f"{name('ssl_cert_file')}, {name('ssl_key_file')}"
        why = f"the broker asks for a certificate that it trusts, and got none or another: {reason} ({own})"
        return Obstacle(why, is_final=True)
    if reason in {"WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE"}:
        protocol = options["security_protocol"]
        why = f"it does not speak TLS ({name('security_protocol')} is {protocol})"
        return Obstacle(why, is_final=True)
    return Obstacle(f"TLS failed: {reason}")


def _explain_refusal(error: errors.KafkaError, options: Mapping[str, Any], name: Naming) -> Obstacle:
    if isinstance(error, TokenError):
        return Obstacle(str(error.args[0]), error.is_final)
    if isinstance(error, errors.UnsupportedSaslMechanismError):
        mechanism = options["sasl_mechanism"]
        return Obstacle(f"the broker does not take {mechanism} ({name('sasl_mechanism')})", is_final=True)
    if isinstance(error, errors.IllegalSaslStateError):
        why = f"the broker asks for no password there; {_doubt(options, name)}"
        return Obstacle(why, is_final=True)
    if isinstance(error, _SASL_ERRORS):
        who = _user(options)
        said = f": {error.args[0]}" if error.args else ""
        how = f"{name('sasl_mechanism')} is {options['sasl_mechanism']}"
        return Obstacle(f"the broker does not know {who}, or not by this secret{said} ({how})", is_final=True)
    return _closed(options, name)


def _closed(options: Mapping[str, Any], name: Naming) -> Obstacle:
    return Obstacle(f"the connection was closed; {_doubt(options, name)}")


def _user(options: Mapping[str, Any]) -> str:
    provider = options.get("sasl_oauth_token_provider")
    return provider.endpoint.client_id if provider else str(options.get("sasl_plain_username"))


def _doubt(options: Mapping[str, Any], name: Naming) -> str:
    """Say what silence is often due to."""
    return f"is {options['security_protocol']} what it speaks ({name('security_protocol')})?"
