"""The stream of events behind the live page: the worker's figures, every second, for those who watch."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import suppress
from time import monotonic, time

import structlog
from prometheus_client import CollectorRegistry

from stream_infer.web.figures import Figures
from stream_infer.web.looks import Looks
from stream_infer.web.probe import Samples
from stream_infer.web.sources import Sources

log = structlog.get_logger(__name__)

MAX_WATCHERS = 16
WATCHED_PAUSE = 1.0
UNWATCHED_PAUSE = 5.0
"""Seconds between two looks while nobody watches: they only keep the charts' history."""
RETRY_MS = 1_000
"""How soon a browser tries again after its connection was lost."""


class LiveFeed:
    """Looks at a worker's metrics, and tells its watchers.

    A look takes about 3 ms of the event loop: .3% of its time while somebody watches, .06% otherwise.
    """

    def __init__(self, sources: Sources) -> None:
        self._sources = sources
        self._looks = Looks()
        self._started = monotonic()
        self._watchers = 0
        self._latest = b""
        self._looked = asyncio.Event()
        self._joined = asyncio.Event()
        self._is_closed = False

    @property
    def is_full(self) -> bool:
        """Whether no further watcher is let in."""
        return self._watchers >= MAX_WATCHERS

    async def run(self) -> None:
        """Look again and again, until cancelled."""
        while True:
            try:
                self._look()
            except Exception:
                # What is shown must not stop what is done: the page says how old its figures are.
                log.exception("live_page_failed")
            self._joined.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(WATCHED_PAUSE if self._watchers else UNWATCHED_PAUSE):
                    await self._joined.wait()

    def close(self) -> None:
        """End the streams of all watchers."""
        self._is_closed = True
        self._looked.set()

    async def watch(self) -> AsyncGenerator[bytes, None]:
        """Yield the history, then the figures each time they are looked at, until the feed is closed.

        A watcher that is slower than the looks misses some.
        """
        self._watchers += 1
        try:
            yield f"retry: {RETRY_MS}\n".encode() + _event(self._looks.points, "history")
            # A look right away: the latest may be some seconds old.
            self._joined.set()
            while not self._is_closed:
                await self._looked.wait()
                if not self._is_closed:
                    yield self._latest
        finally:
            self._watchers -= 1

    def _look(self) -> None:
        now = monotonic() - self._started
        seen = self._looks.add(read_registry(self._sources.registry), now)
        if self._watchers:
            self._latest = _event(self._snapshot(seen, now))
        self._looked.set()
        self._looked = asyncio.Event()

    def _snapshot(self, seen: Figures, now: float) -> Figures:
        state = self._sources.readiness()
        return {
            "at_ms": int(time() * 1000),
            "uptime": now,
            "ready": state.is_ready,
            "reasons": state.reasons,
            "about": self._sources.about,
            "point": self._looks.points[-1],
            **seen,
            **self._sources.recent(),
        }


def refusal(reason: str) -> bytes:
    """Return the one event of a watcher that is not let in; its browser tries again later."""
    return b"retry: 10000\n" + _event(reason, "refused")


def read_registry(registry: CollectorRegistry) -> Samples:
    """Return the samples that `/metrics` would show, but for the times of creation."""
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in registry.collect()
        for sample in family.samples
        if not sample.name.endswith("_created")
    }


def _event(data: object, name: str = "message") -> bytes:
    """Return an event in the syntax of Server-Sent Events (WHATWG HTML, section 9.2)."""
    return f"event: {name}\ndata: {json.dumps(data, separators=(',', ':'))}\n\n".encode()
