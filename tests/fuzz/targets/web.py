"""The web endpoints: who is let in, by headers, and the form that takes the token."""

from __future__ import annotations

import asyncio
from functools import cache
from types import SimpleNamespace
from typing import Any

from aiohttp import StreamReader, web
from aiohttp.test_utils import make_mocked_request
from prometheus_client import CollectorRegistry
from pydantic import SecretStr

from stream_infer.config import WebSettings
from stream_infer.web.access import COOKIE, Access
from stream_infer.web.server import make_application
from stream_infer.web.sources import Readiness, Sources
from tests.fuzz.feed import Feed
from tests.fuzz.target import Target, finished

_TOKEN = "a-token-of-sixteen"  # noqa: S105 - it is the test's own
_FORMS = ("application/x-www-form-urlencoded", "multipart/form-data; boundary=b", "text/plain", "")
_NAMES = ("localhost", "127.0.0.1", "::1", "[::1]")


def check_access(data: bytes) -> None:
    """No header lets anybody in but the token, and a server of loopback knows its own names only."""
    feed = Feed(data)
    path, host = feed.choice(("/", "/metrics", "/live")), feed.text()
    headers = {"Authorization": feed.text(), "Cookie": feed.text(), "Host": host}
    request = _request().clone(rel_url=path, headers=headers)
    closed, opened = Access("127.0.0.1", _TOKEN), Access("127.0.0.1", None)
    if closed.allows(request):
        assert _TOKEN in headers["Authorization"] or f"{COOKIE}={closed.cookie}" in headers["Cookie"]
    if opened.knows_host(request):
        assert any(name in host.lower() for name in ("localhost", "127.", "1", "::"))


def check_login(data: bytes) -> None:
    """A form is the token, or it is turned away; no form breaks the endpoint."""
    feed = Feed(data)
    content_type, body = feed.choice(_FORMS), feed.rest()
    status = finished(_answer(content_type, body))
    assert status in {303, 400, 401, 413, 415}
    if status == web.HTTPSeeOther.status_code:
        assert b"token" in body


async def _answer(content_type: str, body: bytes) -> int:
    payload = StreamReader(_protocol(), 2**16, loop=_loop())
    payload.feed_data(body)
    payload.feed_eof()
    headers = {"Content-Type": content_type} if content_type else {}
    request = _request().clone(method="POST", rel_url="/login", headers=headers)
    request._payload = payload
    try:
        response: Any = await _login()(request)
    except web.HTTPException as refusal:
        return refusal.status
    return int(response.status)


@cache
def _request() -> web.Request:
    """Return what others are cloned from: to make one anew takes a millisecond."""
    return make_mocked_request("GET", "/", protocol=_protocol(), loop=_loop())


@cache
def _protocol() -> Any:
    """Return what is asked of a connection; a mock would remember each question for ever."""
    return SimpleNamespace(
        _reading_paused=False,
        peername=None,
        resume_reading=lambda **_: None,
        sockname=None,
        ssl_context=None,
        transport=SimpleNamespace(get_extra_info=lambda _: None),
    )


@cache
def _application() -> web.Application:
    sources = Sources(CollectorRegistry(), lambda: Readiness(is_ready=True, reasons=()), dict, {})
    return make_application(WebSettings(token=SecretStr(_TOKEN)), sources)


@cache
def _login() -> Any:
    return next(route.handler for route in _application().router.routes() if route.method == "POST")


@cache
def _loop() -> asyncio.AbstractEventLoop:
    """Return what a reader must have, and needs only to wait."""
    return asyncio.new_event_loop()


_MULTIPART = f'--b\r\nContent-Disposition: form-data; name="token"\r\n\r\n{_TOKEN}\r\n--b--\r\n'.encode()
TARGETS = (
    Target(
        "access",
        check_access,
        (
            b"\1\x09localhost" + bytes([7 + len(_TOKEN)]) + f"Bearer {_TOKEN}".encode(),
            b"\1\x05[::1]\0" + bytes([len(COOKIE) + 3]) + f"{COOKIE}=ab".encode(),
        ),
        max_bytes=160,
    ),
    Target("login", check_login, (b"\0token=" + _TOKEN.encode(), b"\1" + _MULTIPART), max_bytes=256),
)
