"""Who may ask the worker's endpoints: all of this machine, or those who know the token."""

from __future__ import annotations

import hmac
from ipaddress import ip_address
from urllib.parse import urlsplit

import structlog
from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from stream_infer.config import WebSettings
from stream_infer.errors import ConfigError

log = structlog.get_logger(__name__)

MIN_TOKEN_CHARS = 16
COOKIE = "stream_infer_session"
OPEN_PATHS = frozenset({"/health", "/ready", "/login", "/page.css"})
"""Probes carry no token; the others make the page that asks for it."""

HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src data:; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
"""On every answer: nothing of others is run or shown, and nobody frames, caches or embeds it."""


def make_access(settings: WebSettings) -> Access:
    """Return who may ask, as the settings have it.

    Raises:
        ConfigError: the token is of no use, or there is none and more than this machine could ask.
    """
    token = read_token(settings)
    if token is None and not is_loopback(settings.host):
        if not settings.allow_without_token:
            raise ConfigError(
                f"web.host: on {settings.host} everyone who reaches the port could read: set web.token_file "
                "or the variable STREAM_INFER__WEB__TOKEN, or web.allow_without_token"
            )
        log.warning("web_is_open", host=settings.host, hint="everyone who reaches the port can read")
    return Access(settings.host, token)


def read_token(settings: WebSettings) -> str | None:
    """Return the token that is asked for, from the setting or its file, or None where there is none.

    Raises:
        ConfigError: the file cannot be read, or the token is too short or not plain ASCII.
    """
    token = _token_of_file(settings) if settings.token is None else settings.token.get_secret_value()
    if token is not None and not (len(token) >= MIN_TOKEN_CHARS and token.isascii() and token.isprintable()):
        raise ConfigError(f"web.token: needs at least {MIN_TOKEN_CHARS} characters, all of them ASCII")
    return token


class Access:
    """Judges requests.

    With a token, all but `OPEN_PATHS` need it: in the `Authorization` header, or as the cookie that it
    was exchanged for. Without one, a server on loopback answers only to names of loopback: a page
    of another site could otherwise have its own name point here, and read (DNS rebinding).
    """

    def __init__(self, host: str, token: str | None) -> None:
        self._host = host
        self._token = token
        self._checks_host = token is None and is_loopback(host)

    def allows(self, request: web.Request) -> bool:
        """Return whether the request comes with the token, or needs none."""
        if self._token is None or request.path in OPEN_PATHS:
            return True
        given = request.headers.get("Authorization", "")
        return _equal(given, f"Bearer {self._token}") or _equal(request.cookies.get(COOKIE, ""), self.cookie)

    def admits_token(self, given: str) -> bool:
        """Return whether this is the token."""
        return self._token is not None and _equal(given, self._token)

    @property
    def cookie(self) -> str:
        """What a browser keeps: made from the token, which it does not tell."""
        return hmac.digest((self._token or "").encode(), COOKIE.encode(), "sha256").hex()

    def knows_host(self, request: web.Request) -> bool:
        """Return whether the request was made to a name of this server."""
        if not self._checks_host:
            return True
        name = _name_of(request.host)
        return name == self._host or is_loopback(name)


def is_loopback(host: str) -> bool:
    """Return whether a host is this machine alone."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def guard(access: Access, login_page: str) -> Middleware:
    """Return the middleware that turns away what `access` does not allow."""

    @web.middleware
    async def check(request: web.Request, handler: Handler) -> web.StreamResponse:
        if not access.knows_host(request):
            return web.Response(status=403, text="this worker answers to names of this machine only\n")
        if access.allows(request):
            return await handler(request)
        if request.path == "/":
            return web.Response(status=401, text=login_page, content_type="text/html")
        return web.Response(status=401, text="a token is needed\n", headers={"WWW-Authenticate": "Bearer"})

    return check


async def add_headers(_: web.Request, response: web.StreamResponse) -> None:
    """Put the headers of protection on an answer that is about to go out."""
    response.headers.update({name: value for name, value in HEADERS.items() if name not in response.headers})


def _equal(given: str, expected: str) -> bool:
    return hmac.compare_digest(given.encode(errors="replace"), expected.encode())


def _name_of(host: str) -> str:
    """Return the name in a `Host` header, or nothing where there is none."""
    try:
        # The parser leaves out tabs and ends of lines, so that another name could become one of ours.
        return (urlsplit(f"//{host}").hostname or "") if host.isprintable() else ""
    except ValueError:
        return ""


def _token_of_file(settings: WebSettings) -> str | None:
    if settings.token_file is None:
        return None
    try:
        return settings.token_file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"web.token_file: {settings.token_file} cannot be read: {error}") from error
