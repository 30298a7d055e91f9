"""A secured Apache Kafka as its clients see it, and an issuer of tokens beside it."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from email.message import Message
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qs, unquote_plus

from loadgen.kafka.process import KafkaProcess
from loadgen.kafka.security import HOST, MUTUAL, PASSWORD, SECURED, USER, BrokerSecurity
from stream_infer.config import KafkaSettings
from tests.broker.loopback_server import LoopbackServer

CLIENT_SECRET: Final = "told to the issuer alone"  # noqa: S105 - of an issuer that lives as long as its test
LIFETIME: Final = 300.0


class TokenIssuer(LoopbackServer):
    """Exchanges client credentials for signed tokens, over TLS on loopback."""

    def __init__(self, security: BrokerSecurity) -> None:
        self.asked: list[dict[str, list[str]]] = []
        self.lifetime = LIFETIME
        self.status = HTTPStatus.OK
        self.signer = security
        super().__init__(security.authority.context_of(security.authority.issue(HOST)))

    @property
    def url(self) -> str:
        """Where tokens are to be had."""
        return f"{self.address}/token"

    @contextmanager
    def giving(self, **changes: Any) -> Iterator[None]:
        """Answer differently while the context lasts."""
        before = {name: getattr(self, name) for name in changes}
        for name, value in changes.items():
            setattr(self, name, value)
        try:
            yield
        finally:
            for name, value in before.items():
                setattr(self, name, value)

    def answer(self, authorization: str, form: dict[str, list[str]]) -> tuple[HTTPStatus, dict[str, Any]]:
        """Return what a request for a token is answered."""
        self.asked.append(form)
        login = base64.b64decode(authorization.removeprefix("Basic ")).decode()
        client, _, secret = (unquote_plus(part) for part in login.partition(":"))
        if self.status is not HTTPStatus.OK:
            return self.status, {}
        if secret != CLIENT_SECRET or form["grant_type"] != ["client_credentials"]:
            return HTTPStatus.UNAUTHORIZED, {"error": "invalid_client"}
        token = self.signer.sign(client, self.lifetime)
        return HTTPStatus.OK, {"access_token": token, "expires_in": self.lifetime, "token_type": "Bearer"}

    def reply(self, path: str, headers: Message, body: bytes) -> tuple[HTTPStatus, bytes]:
        """Answer a form in JSON."""
        del path
        status, fields = self.answer(headers.get("authorization", ""), parse_qs(body.decode()))
        return status, json.dumps(fields).encode()


@dataclass(frozen=True, slots=True)
class SecuredBroker:
    """The broker, what was made for it, and how to reach it in each way."""

    kafka: KafkaProcess
    security: BrokerSecurity
    issuer: TokenIssuer
    directory: Path

    def ways(self, user: str = USER, password: str = PASSWORD) -> dict[str, dict[str, Any]]:
        """Return the settings of `[kafka]` for each way to show who one is."""
        authority = self.security.authority
        identity = authority.issue(user)
        common = {"bootstrap_servers": self.kafka.servers(SECURED), "security_protocol": "SASL_SSL"}
        common |= {"ssl_ca_file": str(authority.ca_file)}
        login = {"sasl_username": user, "sasl_password_file": self.file("password", password)}
        passwords = {
            mechanism: {**common, **login, "sasl_mechanism": mechanism}
            for mechanism in ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512")
        }
        return {
            **passwords,
            "OAUTHBEARER": {**common, **self._oauth(user)},
            "mTLS": {
                "bootstrap_servers": self.kafka.servers(MUTUAL),
                "security_protocol": "SSL",
                "ssl_ca_file": str(authority.ca_file),
                "ssl_cert_file": str(identity.cert_file),
                "ssl_key_file": str(identity.key_file),
            },
        }

    def settings(self, way: str, **others: Any) -> KafkaSettings:
        """Return settings for one way, some of them others."""
        return KafkaSettings.model_validate({**self.ways()[way], **others})

    def file(self, name: str, content: str) -> str:
        """Return the path of a file of secrets with this content."""
        path = self.directory / f"{name}-{abs(hash(content))}"
        path.write_text(content, encoding="utf-8")
        return str(path)

    def _oauth(self, client: str) -> dict[str, Any]:
        return {
            "sasl_mechanism": "OAUTHBEARER",
            "sasl_oauth_token_url": self.issuer.url,
            "sasl_oauth_client_id": client,
            "sasl_oauth_client_secret_file": self.file("secret", CLIENT_SECRET),
            "sasl_oauth_ca_file": str(self.security.authority.ca_file),
        }


def toml(settings: dict[str, Any]) -> str:
    """Return `[kafka]` as a settings file has it."""
    return "[kafka]\n" + "".join(f"{name} = {json.dumps(value)}\n" for name, value in settings.items())
