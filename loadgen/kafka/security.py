"""Listeners of Apache Kafka that ask who one is, and all that the suite makes for them.

The authority, its certificates, the key that signs tokens and the users live as long as the broker.
"""

from __future__ import annotations

import json
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import Final

import jwt
import trustme
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from loadgen.kafka.process import Extras

HOST: Final = "127.0.0.1"
USER: Final = "loader"
"""Known by every mechanism, and allowed everything."""
PASSWORD: Final = "of the tests' own"  # noqa: S105 - of a broker that lives as long as its test

SECURED: Final = "SECURED"
"""The listener that asks for TLS and a password or token."""
MUTUAL: Final = "MUTUAL"
"""The one that asks for a certificate."""
EXPIRED: Final = "EXPIRED"
"""The one whose own certificate has expired."""

ISSUER: Final = "https://issuer.test"
AUDIENCE: Final = "kafka"
KEY_ID: Final = "of-the-tests"

_PROPERTIES: Final = """
authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer
allow.everyone.if.no.acl.found=false
# Whoever comes by the plain listener is the suite itself, or the broker.
super.users=User:ANONYMOUS;User:{user}
ssl.keystore.type=PEM
ssl.keystore.location={keystore}
ssl.truststore.type=PEM
ssl.truststore.location={ca}
listener.name.expired.ssl.keystore.type=PEM
listener.name.expired.ssl.keystore.location={expired}
listener.name.mutual.ssl.client.auth=required
listener.name.mutual.ssl.principal.mapping.rules=RULE:^.*CN=([^,]+).*$/$1/
listener.name.secured.sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-256,SCRAM-SHA-512,OAUTHBEARER
listener.name.secured.plain.sasl.jaas.config=\\
 org.apache.kafka.common.security.plain.PlainLoginModule required user_{user}="{password}";
listener.name.secured.scram-sha-256.sasl.jaas.config=\\
 org.apache.kafka.common.security.scram.ScramLoginModule required;
listener.name.secured.scram-sha-512.sasl.jaas.config=\\
 org.apache.kafka.common.security.scram.ScramLoginModule required;
listener.name.secured.oauthbearer.sasl.jaas.config=\\
 org.apache.kafka.common.security.oauthbearer.OAuthBearerLoginModule required;
listener.name.secured.oauthbearer.sasl.server.callback.handler.class=\\
 org.apache.kafka.common.security.oauthbearer.OAuthBearerValidatorCallbackHandler
# Kafka 4.1's default takes tokens of any signature, and a listener's own validator is not heard.
sasl.oauthbearer.jwt.validator.class=org.apache.kafka.common.security.oauthbearer.BrokerJwtValidator
# A connection lasts no longer than the token that opened it.
listener.name.secured.oauthbearer.connections.max.reauth.ms=3600000
sasl.oauthbearer.jwks.endpoint.url={keys}
sasl.oauthbearer.expected.issuer={issuer}
sasl.oauthbearer.expected.audience={audience}
"""


_LOGGING: Final = """
rootLogger.level=ERROR
rootLogger.appenderRef.out.ref=OUT
appender.out.type=Console
appender.out.name=OUT
appender.out.layout.type=PatternLayout
appender.out.layout.pattern=%m%n
logger.authorizer.name=kafka.authorizer.logger
logger.authorizer.level=DEBUG
"""
"""Says of each request who was allowed what, by which entry, and who was not."""


@dataclass(frozen=True, slots=True)
class Identity:
    """A certificate and its key, as files."""

    cert_file: Path
    key_file: Path


class Authority:
    """Makes certificates that its own certificate vouches for."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._authority = trustme.CA()

    @cached_property
    def ca_file(self) -> Path:
        """What those must trust who are to trust its certificates."""
        path = self._directory / "ca.pem"
        self._authority.cert_pem.write_to_path(str(path))
        return path

    def issue(self, name: str, *, days: int = 2) -> Identity:
        """Return a certificate for this name: a host's address, or a client's own; of days past, expired."""
        now = datetime.now(UTC)
        issued = self._authority.issue_cert(
            HOST,
            common_name=None if name == HOST else name,
            not_before=now - timedelta(days=9),
            not_after=now + timedelta(days=days),
        )
        cert_file = self._directory / f"{name}-{days}.pem"
        key_file = cert_file.with_suffix(".key")
        cert_file.write_bytes(b"".join(each.bytes() for each in issued.cert_chain_pems))
        key_file.write_bytes(_pkcs8(issued.private_key_pem.bytes()))
        return Identity(cert_file, key_file)

    def context_of(self, identity: Identity) -> ssl.SSLContext:
        """Return what a server of the tests needs to show a certificate."""
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=self.ca_file)
        context.load_cert_chain(identity.cert_file, identity.key_file)
        return context


class BrokerSecurity:
    """What a secured broker is started with, and what its clients need to know."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.authority = Authority(directory)
        self._signing_key = rsa.generate_private_key(public_exponent=65_537, key_size=2_048)

    def sign(self, subject: str, lifetime: float) -> str:
        """Return a token that the broker takes, for so many seconds."""
        now = datetime.now(UTC)
        claims = {"sub": subject, "iss": ISSUER, "aud": AUDIENCE, "iat": now}
        claims["exp"] = now + timedelta(seconds=lifetime)
        return jwt.encode(claims, self._signing_key, "RS256", headers={"kid": KEY_ID})

    @property
    def extras(self) -> Extras:
        """Write the files, and return what the broker is told of them."""
        keys = self._write_keys().as_uri()
        properties = _PROPERTIES.format(
            user=USER,
            password=PASSWORD,
            ca=self.authority.ca_file,
            keystore=self._keystore("broker", self.authority.issue(HOST)),
            expired=self._keystore("expired", self.authority.issue(HOST, days=-1)),
            keys=keys,
            issuer=ISSUER,
            audience=AUDIENCE,
        )
        scram = [f"SCRAM-SHA-{size}=[name={USER},password={PASSWORD}]" for size in (256, 512)]
        return Extras(
            listeners={SECURED: "SASL_SSL", MUTUAL: "SSL", EXPIRED: "SSL"},
            properties=properties,
            java=(
                f"-Dorg.apache.kafka.sasl.oauthbearer.allowed.urls={keys}",
                f"-Dlog4j2.configurationFile={self._write_logging()}",
            ),
            format=_options("--add-scram", scram),
        )

    def _keystore(self, name: str, identity: Identity) -> Path:
        path = self._directory / f"{name}-keystore.pem"
        path.write_bytes(identity.key_file.read_bytes() + identity.cert_file.read_bytes())
        return path

    def _write_logging(self) -> Path:
        path = self._directory / "log4j2.properties"
        path.write_text(_LOGGING)
        return path

    def _write_keys(self) -> Path:
        key = json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(self._signing_key.public_key()))
        path = self._directory / "keys.json"
        path.write_text(json.dumps({"keys": [{**key, "kid": KEY_ID, "use": "sig", "alg": "RS256"}]}))
        return path


def _options(name: str, values: Sequence[str]) -> tuple[str, ...]:
    return tuple(word for value in values for word in (name, value))


def _pkcs8(pem: bytes) -> bytes:
    """Return a key in the one form that Kafka reads."""
    key = serialization.load_pem_private_key(pem, None)
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
