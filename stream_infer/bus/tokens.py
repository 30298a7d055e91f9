"""Tokens by which a client shows a broker who it is: OAuth 2.0, client credentials (RFC 6749, section 4.4).

aiokafka asks for a token whenever it opens a connection. It knows no way to show a new one on a
connection that is open: where a broker wants that (`connections.max.reauth.ms`), it closes the
connection when the token has run out, and the next one is opened with a fresh token.
"""

from __future__ import annotations

import asyncio
import base64
import json
import re
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http import HTTPStatus
from ipaddress import ip_address
from typing import Any, Final
from urllib.parse import quote_plus, urlsplit
from weakref import WeakKeyDictionary

import aiohttp
import structlog
from aiokafka import conn
from aiokafka.abc import AbstractTokenProvider
from aiokafka.errors import KafkaConnectionError, SaslAuthenticationFailed

RENEW_SHARE: Final = 0.8
"""Of a token's life: after that the next connection brings a fresh one."""
TIMEOUT_SECONDS: Final = 5.0
MAX_REPLY_BYTES: Final = 65_536

_TOKEN: Final = re.compile(r"[A-Za-z0-9._~+/-]+=*")
"""What may stand after `Bearer` (RFC 6750): anything else could say more to the broker than a token."""
_ERROR_CODE: Final = re.compile(r"[a-z_]{1,40}")
_BUSY: Final = {HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_MANY_REQUESTS}

log = structlog.get_logger(__name__)


class TokenError(KafkaConnectionError):  # type: ignore[misc] # aiokafka publishes no types
    """There is no token; the message names the endpoint and says why, and holds no secret.

    `is_final` where asking again would bring the same answer. aiokafka takes it for a connection that
    could not be opened, and goes on trying as long as whoever waits for it does.
    """

    def __init__(self, message: str, *, is_final: bool) -> None:
        super().__init__(message)
        self.is_final = is_final


@dataclass(frozen=True, slots=True)
class TokenEndpoint:
    """Where tokens are to be had, by whom, and whose certificates are trusted there."""

    url: str
    client_id: str
    client_secret: str = field(repr=False)
    scope: str | None = None
    trust: ssl.SSLContext | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class _Token:
    text: str = field(repr=False)
    renew_at: float
    ends_at: float


def url_fault(url: str) -> str:
    """Return why a secret cannot be sent to this address, or nothing."""
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
    except ValueError:
        return f"{url} is no address"
    if parts.username or parts.password:
        return "an address must not hold a user or password"
    if not host or parts.scheme not in {"http", "https"}:
        return f"{url} is not an https:// address"
    if parts.scheme == "http" and not _is_loopback(host):
        return f"{url} would send the secret in clear: it must be https://"
    return ""


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def notice_refusals() -> None:
    """Make every client of this process see that a broker refuses its token.

    A broker says so in an answer that is no error (RFC 7628, section 3.2.3). aiokafka takes it for a
    welcome, and what is asked next for an answer to what it is not.
    """
    conn.OAuthAuthenticator = _Authenticator


class _Authenticator(conn.OAuthAuthenticator):  # type: ignore[misc] # aiokafka publishes no types
    async def step(self, payload: bytes | None) -> Any:
        if self._token_sent and payload:
            status = str(_fields(payload).get("status", ""))
            said = f" ({status})" if _ERROR_CODE.fullmatch(status) else ""
            raise SaslAuthenticationFailed(f"the token is refused{said}")
        return await super().step(payload)


class ClientCredentials(AbstractTokenProvider):  # type: ignore[misc] # aiokafka publishes no types
    """Gives the clients of a process their token, and fetches the next before it has run out.

    Clients may live in several threads, each with its own event loop, as Faust's do.
    """

    def __init__(self, endpoint: TokenEndpoint, now: Callable[[], float] = time.monotonic) -> None:
        self.endpoint = endpoint
        notice_refusals()
        self._now = now
        self._token: _Token | None = None
        self._locks: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Lock] = WeakKeyDictionary()

    async def token(self) -> str:
        """Return a token that the broker will take.

        Raises:
            TokenError: the endpoint gives none, and the last one has run out.
        """
        async with self._locks.setdefault(asyncio.get_running_loop(), asyncio.Lock()):
            if self._token is None or self._now() >= self._token.renew_at:
                await self._renew()
            assert self._token is not None  # noqa: S101 - by `_renew`
            return self._token.text

    async def _renew(self) -> None:
        try:
            self._token = await self._fetch()
        except TokenError as error:
            if self._token is None or self._now() >= self._token.ends_at:
                raise
            log.warning("token_not_renewed", error=str(error))

    async def _fetch(self) -> _Token:
        asked_at = self._now()
        text, seconds = read_reply(self.endpoint, *await _ask(self.endpoint))
        return _Token(text, asked_at + seconds * RENEW_SHARE, asked_at + seconds)


async def _ask(endpoint: TokenEndpoint) -> tuple[int, bytes]:
    """Return the status and the beginning of what the endpoint answers."""
    form = {"grant_type": "client_credentials"} | ({"scope": endpoint.scope} if endpoint.scope else {})
    # Encoded before they are joined by a colon: RFC 6749, section 2.3.1.
    login = f"{quote_plus(endpoint.client_id)}:{quote_plus(endpoint.client_secret)}"
    headers = {"Authorization": f"Basic {base64.b64encode(login.encode()).decode()}"}
    timeout = aiohttp.ClientTimeout(total=TIMEOUT_SECONDS)
    is_secure = endpoint.url.startswith("https:")
    trust: Any = endpoint.trust if is_secure and endpoint.trust else True
    try:
        async with (
            aiohttp.ClientSession(timeout=timeout) as session,
            # A redirection could lead the secret anywhere.
            session.post(endpoint.url, data=form, headers=headers, ssl=trust, allow_redirects=False) as reply,
        ):
            return reply.status, await reply.content.read(MAX_REPLY_BYTES)
    except aiohttp.ClientConnectorCertificateError as error:
        reason = getattr(error.certificate_error, "verify_message", "") or "it cannot be verified"
        raise _refused(endpoint, f"its certificate is not trusted: {reason}", is_final=True) from error
    except TimeoutError as error:
        raise _refused(endpoint, f"no answer within {TIMEOUT_SECONDS:g} s", is_final=False) from error
    except (aiohttp.ClientError, OSError) as error:
        raise _refused(endpoint, type(error).__name__, is_final=False) from error


def read_reply(endpoint: TokenEndpoint, status: int, body: bytes) -> tuple[str, float]:
    """Return the token in an endpoint's answer, and for how many seconds it is good.

    Where that is not said it is taken for used up, so that each connection gets its own.

    Raises:
        TokenError: there is none in it.
    """
    fields = _fields(body)
    if status != HTTPStatus.OK:
        code = str(fields.get("error", ""))
        said = f": {code}" if _ERROR_CODE.fullmatch(code) else ""
        is_final = status < HTTPStatus.INTERNAL_SERVER_ERROR and status not in _BUSY
        raise _refused(endpoint, f"it answered {status}{said}", is_final=is_final)
    text, seconds = fields.get("access_token"), fields.get("expires_in", 0)
    if not isinstance(text, str) or not _TOKEN.fullmatch(text):
        raise _refused(endpoint, "its answer holds no access_token", is_final=True)
    return text, float(seconds) if isinstance(seconds, int | float) and seconds > 0 else 0.0


def _fields(body: bytes) -> dict[str, Any]:
    try:
        fields = json.loads(body)
    except ValueError:
        return {}
    return fields if isinstance(fields, dict) else {}


def _refused(endpoint: TokenEndpoint, why: str, *, is_final: bool) -> TokenError:
    return TokenError(f"no token for {endpoint.client_id} at {endpoint.url}: {why}", is_final=is_final)
