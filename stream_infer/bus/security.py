"""What a secured broker asks of its clients, as aiokafka's arguments: TLS, and who one is.

It knows brokers and aiokafka, and nothing of the service: whoever asks gives the names by which its
own users know what was set, so that a fault is named as they wrote it.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Final, Literal, get_args

import structlog

from stream_infer.bus.tokens import ClientCredentials, TokenEndpoint, url_fault

Protocol = Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"]
Mechanism = Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER"]
PROTOCOLS: Final[tuple[str, ...]] = get_args(Protocol)
MECHANISMS: Final[tuple[str, ...]] = get_args(Mechanism)
OAUTH: Final = "OAUTHBEARER"

Naming = Callable[[str], str]
"""Gives the name by which a user knows a field of `Security`."""

_LAYERS: Final = {"ssl_": "SSL", "sasl": "SASL"}
"""What a protocol must have for fields that begin so."""
_OAUTH_PREFIX: Final = "sasl_oauth_"
_PASSWORD_FIELDS: Final = ("sasl_username", "sasl_password", "sasl_password_file")

log = structlog.get_logger(__name__)


class SecurityError(ValueError):
    """What was set does not say how to reach a secured broker; the message names it and says why."""


@dataclass(frozen=True, slots=True)
class Security:
    """What was set: files, and who one is. No secret appears in its repr."""

    security_protocol: str = "PLAINTEXT"
    sasl_mechanism: str = "SCRAM-SHA-512"
    sasl_username: str | None = None
    sasl_password: str | None = field(default=None, repr=False)
    sasl_password_file: Path | None = None
    sasl_oauth_token_url: str | None = None
    sasl_oauth_client_id: str | None = None
    sasl_oauth_client_secret: str | None = field(default=None, repr=False)
    sasl_oauth_client_secret_file: Path | None = None
    sasl_oauth_scope: str | None = None
    sasl_oauth_ca_file: Path | None = None
    ssl_ca_file: Path | None = None
    ssl_cert_file: Path | None = None
    ssl_key_file: Path | None = None


def security_arguments(security: Security, name: Naming) -> dict[str, Any]:
    """Return what aiokafka's clients take, but for the servers.

    Raises:
        SecurityError: something is missing, cannot be used, or would be passed over.
    """
    _refuse_unused(security, name)
    _refuse_unreadable(security, name)
    arguments: dict[str, Any] = {"security_protocol": security.security_protocol}
    if "SSL" in security.security_protocol:
        arguments["ssl_context"] = _context(security, name)
    if "SASL" in security.security_protocol:
        arguments |= {"sasl_mechanism": security.sasl_mechanism, **_credentials(security, name)}
    return arguments


def _refuse_unused(security: Security, name: Naming) -> None:
    """Refuse what would be passed over: who gives a certificate or a password does not mean plain text."""
    protocol = security.security_protocol
    given = [each for each in _given(security) if each not in {"security_protocol", "sasl_mechanism"}]
    unused = [each for each in given if _LAYERS[each[:4]] not in protocol]
    if unused:
        raise SecurityError(f"{name('security_protocol')}: {protocol} has no use for {_names(unused, name)}")
    is_oauth = security.sasl_mechanism == OAUTH
    wrong = [
        each for each in given if (each in _PASSWORD_FIELDS if is_oauth else each.startswith(_OAUTH_PREFIX))
    ]
    if wrong:
        mechanism = security.sasl_mechanism
        raise SecurityError(f"{name('sasl_mechanism')}: {mechanism} has no use for {_names(wrong, name)}")


def _given(security: Security) -> Iterator[str]:
    for each in fields(security):
        if getattr(security, each.name) is not None:
            yield each.name


def _names(given: Iterable[str], name: Naming) -> str:
    return ", ".join(name(each) for each in given)


def _refuse_unreadable(security: Security, name: Naming) -> None:
    for each in _given(security):
        path = getattr(security, each)
        if isinstance(path, Path):
            try:
                path.open("rb").close()
            except OSError as error:
                raise SecurityError(f"{name(each)}: {path} cannot be read: {error.strerror}") from error


def _context(security: Security, name: Naming) -> ssl.SSLContext:
    if security.ssl_key_file and not security.ssl_cert_file:
        raise SecurityError(f"{name('ssl_key_file')}: there is no {name('ssl_cert_file')} that it belongs to")
    context = _trusting(security.ssl_ca_file, name("ssl_ca_file"))
    if security.ssl_cert_file:
        try:
            # Without a password of its own, a locked key would be asked for on the terminal.
            context.load_cert_chain(security.ssl_cert_file, security.ssl_key_file, password="")
        except ssl.SSLError as error:
            names = _names(["ssl_cert_file", "ssl_key_file"], name)
            raise SecurityError(f"{names}: not a usable certificate and its key: {_reason(error)}") from error
    return context


def _trusting(ca_file: Path | None, name: str) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=ca_file)
    except ssl.SSLError as error:
        raise SecurityError(f"{name}: {ca_file} is not a usable certificate: {_reason(error)}") from error


def _reason(error: ssl.SSLError) -> str:
    return error.reason or "it holds none"


def _credentials(security: Security, name: Naming) -> dict[str, Any]:
    if security.sasl_mechanism == OAUTH:
        return {"sasl_oauth_token_provider": ClientCredentials(_endpoint(security, name))}
    password = security.sasl_password or _content(security.sasl_password_file)
    if not security.sasl_username or not password:
        protocol = f"{name('security_protocol')}: {security.security_protocol}"
        raise SecurityError(
            f"{protocol} needs {name('sasl_username')}, and the password in {name('sasl_password')} "
            f"or {name('sasl_password_file')}"
        )
    if security.sasl_mechanism == "PLAIN" and security.security_protocol == "SASL_PLAINTEXT":
        log.warning("password_sent_in_clear", hint=f"{name('security_protocol')}: SASL_SSL keeps it secret")
    return {"sasl_plain_username": security.sasl_username, "sasl_plain_password": password}


def _endpoint(security: Security, name: Naming) -> TokenEndpoint:
    url, client_id = security.sasl_oauth_token_url, security.sasl_oauth_client_id
    secret = security.sasl_oauth_client_secret or _content(security.sasl_oauth_client_secret_file)
    if not url or not client_id or not secret:
        needed = _names(["sasl_oauth_token_url", "sasl_oauth_client_id"], name)
        raise SecurityError(
            f"{name('sasl_mechanism')}: {OAUTH} needs {needed}, and the client's secret in "
            f"{name('sasl_oauth_client_secret')} or {name('sasl_oauth_client_secret_file')}"
        )
    if fault := url_fault(url):
        raise SecurityError(f"{name('sasl_oauth_token_url')}: {fault}")
    trust = _trusting(security.sasl_oauth_ca_file, name("sasl_oauth_ca_file"))
    return TokenEndpoint(url, client_id, secret, security.sasl_oauth_scope, trust)


def _content(path: Path | None) -> str | None:
    return None if path is None else path.read_text(encoding="utf-8").rstrip("\r\n")
