"""The worker's endpoints on aiohttp, on loopback unless told otherwise: probes, metrics, the live page."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager, suppress
from importlib.resources import files

from aiohttp import web
from aiohttp.typedefs import Handler
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from stream_infer.config import WebSettings
from stream_infer.errors import ConfigError
from stream_infer.web.access import COOKIE, Access, add_headers, guard, make_access
from stream_infer.web.live import MAX_WATCHERS, LiveFeed, refusal
from stream_infer.web.sources import Sources

FORM = "application/x-www-form-urlencoded"
SEND_SECONDS = 5.0
"""How long a watcher may take to receive one event before it is let go."""
STOP_SECONDS = 2.0
"""How long answers may take that are under way when the worker ends."""


@asynccontextmanager
async def serve_web(settings: WebSettings, sources: Sources) -> AsyncIterator[int | None]:
    """Serve while the context lasts; yields the bound port, or None when switched off.

    Raises:
        ConfigError: the port is taken, the host is not one of this machine, or the token is of no use.
    """
    if not settings.enabled:
        yield None
        return
    application = make_application(settings, sources)
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=STOP_SECONDS)
    await runner.setup()
    try:
        site = web.TCPSite(runner, settings.host, settings.port)
        try:
            await site.start()
        except OSError as error:
            raise ConfigError(
                f"web.port: cannot listen on {settings.host}:{settings.port}: {error}"
            ) from error
        yield int(runner.addresses[0][1])
    finally:
        await runner.cleanup()


def make_application(settings: WebSettings, sources: Sources) -> web.Application:
    """Return what is served, not yet listening.

    Raises:
        ConfigError: the token is of no use.
    """
    access = make_access(settings)
    feed = LiveFeed(sources)
    application = web.Application(middlewares=[guard(access, _file("login.html"))])
    application.add_routes(
        [*_probes(sources), *_page(), *_login(access), web.get("/live", _watching(feed), allow_head=False)]
    )
    application.on_response_prepare.append(add_headers)
    application.cleanup_ctx.append(_looking(feed))
    application.on_shutdown.append(_closing(feed))
    return application


def _probes(sources: Sources) -> list[web.RouteDef]:
    async def health(_: web.Request) -> web.Response:
        return web.json_response({"status": "alive"})

    async def ready(_: web.Request) -> web.Response:
        state = sources.readiness()
        body = {"ready": state.is_ready, "reasons": list(state.reasons)}
        return web.json_response(body, status=200 if state.is_ready else 503)

    async def metrics(_: web.Request) -> web.Response:
        body = generate_latest(sources.registry)
        return web.Response(body=body, headers={"Content-Type": CONTENT_TYPE_LATEST})

    return [web.get("/health", health), web.get("/ready", ready), web.get("/metrics", metrics)]


def _page() -> list[web.RouteDef]:
    """The page's own files, which are read once."""
    return [
        web.get(path, _sending(_file(name), kind))
        for path, name, kind in (
            ("/", "page.html", "text/html"),
            ("/page.css", "page.css", "text/css"),
            ("/page.js", "page.js", "text/javascript"),
            ("/charts.js", "charts.js", "text/javascript"),
        )
    ]


def _login(access: Access) -> list[web.RouteDef]:
    """The form that takes the token: in an address it would stay in histories and logs."""
    form = _file("login.html")

    async def login(request: web.Request) -> web.Response:
        if not access.admits_token(await _token_in(request)):
            refused = form.replace("<output></output>", "<output>That is not the token.</output>")
            return web.Response(status=401, text=refused, content_type="text/html")
        response = web.Response(status=303, headers={"Location": "./"})
        response.set_cookie(COOKIE, access.cookie, httponly=True, samesite="Strict", secure=request.secure)
        return response

    return [web.post("/login", login)]


async def _token_in(request: web.Request) -> str:
    """Return the token that a form holds, or an empty one.

    Only of the kind that the page sends: no parser of multipart bodies stands before the token.
    """
    if request.content_type != FORM:
        return ""
    try:
        given = (await request.post()).get("token")
    except (ValueError, LookupError):  # bytes that are no text, or of an unknown charset
        return ""
    return given.strip() if isinstance(given, str) else ""


def _watching(feed: LiveFeed) -> Handler:
    async def watching(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        if feed.is_full:
            await response.write(refusal(f"{MAX_WATCHERS} others watch already"))
            return response
        # One who left, or does not keep up, is no fault of the worker's.
        with suppress(ConnectionError, TimeoutError):
            async with aclosing(feed.watch()) as events:
                async for event in events:
                    async with asyncio.timeout(SEND_SECONDS):
                        await response.write(event)
        return response

    return watching


def _sending(text: str, kind: str) -> Handler:
    async def send(_: web.Request) -> web.Response:
        return web.Response(text=text, content_type=kind)

    return send


def _looking(feed: LiveFeed) -> Callable[[web.Application], AsyncIterator[None]]:
    async def looking(_: web.Application) -> AsyncIterator[None]:
        async with asyncio.TaskGroup() as group:
            task = group.create_task(feed.run())
            yield
            task.cancel()

    return looking


def _closing(feed: LiveFeed) -> Callable[[web.Application], Awaitable[None]]:
    async def closing(_: web.Application) -> None:
        feed.close()

    return closing


def _file(name: str) -> str:
    return (files("stream_infer.web") / name).read_text(encoding="utf-8")
