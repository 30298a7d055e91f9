"""`stream-infer top`: looking at workers again and again."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from time import monotonic

from rich.console import Console, RenderableType
from rich.live import Live

from stream_infer.errors import BusError
from stream_infer.top.view import page
from stream_infer.web.change import PREFIX, Change
from stream_infer.web.probe import Samples, read_samples

_READY = (f"{PREFIX}ready", frozenset[tuple[str, str]]())


async def run_top(urls: Sequence[str], interval: float, token: str | None, *, once: bool) -> None:
    """Show what the workers at `urls` do, anew every `interval` seconds, until cancelled.

    With `once` a single page is printed, of the first interval.

    Raises:
        BusError: no worker answers at the start.
        ConfigError: a worker asks for another token.
    """
    before, at = await _look(urls, token), monotonic()
    if not any(before):
        raise BusError(f"no worker answers at {', '.join(urls)}")
    console = Console()
    with Live(console=console, auto_refresh=False, screen=not once) as live:
        while True:
            await asyncio.sleep(interval)
            after, now = await _look(urls, token), monotonic()
            live.update(_page(urls, before, after, now - at), refresh=True)
            if once:
                return
            before, at = after, now


async def _look(urls: Sequence[str], token: str | None) -> list[Samples]:
    return await asyncio.gather(*(read_samples(url, token) for url in urls))


def _page(
    urls: Sequence[str], before: Sequence[Samples], after: Sequence[Samples], seconds: float
) -> RenderableType:
    """Return the page of one interval; a worker that answered only once has no rates yet."""
    states = {url: _state(samples) for url, samples in zip(urls, after, strict=True)}
    looks = [(first or second, second) for first, second in zip(before, after, strict=True)]
    return page(states, Change(looks, seconds))


def _state(samples: Samples) -> str:
    if not samples:
        return "no answer"
    return "ready" if samples.get(_READY) else "not ready"
