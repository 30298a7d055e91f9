"""`/health`, `/ready` and `/metrics` on aiohttp, on loopback unless told otherwise."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest

from stream_infer.config import WebSettings
from stream_infer.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Readiness:
    """Whether the worker does its job, and if not, what is missing."""

    is_ready: bool
    reasons: tuple[str, ...] = ()


@asynccontextmanager
async def serve_web(
    settings: WebSettings, registry: CollectorRegistry, readiness: Callable[[], Readiness]
) -> AsyncIterator[int | None]:
    """Serve while the context lasts; yields the bound port, or None when switched off.

    Raises:
        ConfigError: the port is taken or the host is not one of this machine.
    """
    if not settings.enabled:
        yield None
        return
    runner = web.AppRunner(_application(registry, readiness), access_log=None)
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


def _application(registry: CollectorRegistry, readiness: Callable[[], Readiness]) -> web.Application:
    async def health(_: web.Request) -> web.Response:
        return web.json_response({"status": "alive"})

    async def ready(_: web.Request) -> web.Response:
        state = readiness()
        body = {"ready": state.is_ready, "reasons": list(state.reasons)}
        return web.json_response(body, status=200 if state.is_ready else 503)

    async def metrics(_: web.Request) -> web.Response:
        body = generate_latest(registry)
        return web.Response(body=body, headers={"Content-Type": CONTENT_TYPE_LATEST})

    application = web.Application()
    application.add_routes(
        [web.get("/health", health), web.get("/ready", ready), web.get("/metrics", metrics)]
    )
    return application
