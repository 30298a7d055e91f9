"""How to reach a broker: its addresses, and what a secured one asks for. No secret appears in a repr."""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

PROTOCOLS: Final = ("PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL")
MECHANISMS: Final = ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512")
PASSWORD_VARIABLE: Final = "LOADGEN_SASL_PASSWORD"  # noqa: S105 - where the password is, not what it is

_LAYERS: Final = {"--sasl": "SASL", "--ssl-": "SSL"}
"""What a protocol must have for options that begin so."""


class SecurityError(Exception):
    """The options do not say how to reach a secured broker; the message says why."""


@dataclass(frozen=True, slots=True)
class Broker:
    """Where the broker is, and aiokafka's arguments for what it asks for."""

    bootstrap_servers: str
    protocol: str = "PLAINTEXT"
    security: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @property
    def arguments(self) -> dict[str, Any]:
        """What every aiokafka client takes."""
        return {
            "bootstrap_servers": self.bootstrap_servers,
            "security_protocol": self.protocol,
            **self.security,
        }


@dataclass(frozen=True, slots=True)
class Security:
    """What was asked for: the files, the user, and how the password is proven."""

    protocol: str = "PLAINTEXT"
    mechanism: str = "SCRAM-SHA-512"
    username: str | None = None
    password_file: Path | None = None
    ca_file: Path | None = None
    cert_file: Path | None = None
    key_file: Path | None = None

    @property
    def files(self) -> dict[str, Path]:
        """The files that were given, by their options."""
        paths = {
            "--sasl-password-file": self.password_file,
            "--ssl-ca-file": self.ca_file,
            "--ssl-cert-file": self.cert_file,
            "--ssl-key-file": self.key_file,
        }
        return {name: path for name, path in paths.items() if path is not None}


def secured(bootstrap_servers: str, security: Security, environment: Mapping[str, str]) -> Broker:
    """Return the broker that is reached in this way; the password's file goes before the environment.

    Raises:
        SecurityError: something is missing, cannot be used, or would be passed over by the protocol.
    """
    arguments: dict[str, Any] = {}
    _refuse_unused(security)
    _refuse_unreadable(security)
    if "SSL" in security.protocol:
        arguments["ssl_context"] = _context(security)
    if "SASL" in security.protocol:
        arguments |= _credentials(security, environment)
    return Broker(bootstrap_servers, security.protocol, arguments)


def _refuse_unused(security: Security) -> None:
    """Refuse what the protocol has no use for: who gives a certificate does not mean plain text."""
    given = [*security.files, *(["--sasl-username"] if security.username else [])]
    if unused := [name for name in given if _LAYERS[name[:6]] not in security.protocol]:
        raise SecurityError(f"--security-protocol: {security.protocol} has no use for {', '.join(unused)}")


def _refuse_unreadable(security: Security) -> None:
    for name, path in security.files.items():
        try:
            path.open("rb").close()
        except OSError as error:
            raise SecurityError(f"{name}: {path} cannot be read: {error.strerror}") from error


def _context(security: Security) -> ssl.SSLContext:
    if security.key_file and not security.cert_file:
        raise SecurityError("--ssl-key-file: there is no --ssl-cert-file that it belongs to")
    try:
        context = ssl.create_default_context(cafile=security.ca_file)
        if security.cert_file:
            context.load_cert_chain(security.cert_file, security.key_file)
    except ssl.SSLError as error:
        raise SecurityError(f"--ssl-*-file: not a usable certificate or key: {error.reason}") from error
    return context


def _credentials(security: Security, environment: Mapping[str, str]) -> dict[str, str]:
    password = environment.get(PASSWORD_VARIABLE)
    if security.password_file:
        password = security.password_file.read_text(encoding="utf-8").rstrip("\r\n")
    if not security.username or not password:
        raise SecurityError(
            f"--security-protocol: {security.protocol} needs --sasl-username, and the password in "
            f"{PASSWORD_VARIABLE} or --sasl-password-file"
        )
    return {
        "sasl_mechanism": security.mechanism,
        "sasl_plain_username": security.username,
        "sasl_plain_password": password,
    }
