"""The `streams` role as a process: started, watched, and always stopped."""

from __future__ import annotations

import asyncio
import os
import signal
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack, contextmanager
from types import FrameType
from typing import Final

import structlog

from stream_infer.bus.connection import connect, wait_until_reachable
from stream_infer.bus.publisher import Publisher
from stream_infer.config import Settings
from stream_infer.errors import ConfigError
from stream_infer.schemas import Task
from stream_infer.streams.app import AGENTS, StreamsApp
from stream_infer.streams.embedder import open_embedder
from stream_infer.streams.needs import check_needs, has_task

log = structlog.get_logger(__name__)

EXIT_FAILED: Final = 1
EXIT_HARD_STOP: Final = 3
REACH_SECONDS: Final = 10.0
"""How long a broker may take to answer at the start."""


def run_streams(settings: Settings) -> int:
    """Run the side streams until SIGTERM or SIGINT and return the exit status of the process.

    0 after an orderly stop, `EXIT_FAILED` after a failure. If stopping takes longer than
    `side_streams.stop_timeout_ms`, the process ends itself with `EXIT_HARD_STOP`: what was not
    acknowledged is read again after the restart.

    Raises:
        ConfigError: a setting, a topic or the model makes it impossible to start.
        BusError: no broker answered.
    """
    if settings.kafka.is_embedded:
        raise ConfigError("kafka.bootstrap_servers: the streams role needs the address of a running broker")
    return asyncio.run(_run(settings))


class StopRequest:
    """The wish to end, from a signal or a failure; once made, the process ends within `timeout` seconds."""

    def __init__(self, timeout: float, exit_process: Callable[[int], None] = os._exit) -> None:
        self._made = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._timer = threading.Timer(timeout, exit_process, [EXIT_HARD_STOP])
        self._timer.daemon = True

    def make(self) -> None:
        """Ask to stop; asking again changes nothing."""
        if not self._timer.is_alive():
            # A thread, since what hangs may be the event loop.
            self._timer.start()
            self._loop.call_soon_threadsafe(self._made.set)

    async def wait(self) -> None:
        """Return once the wish was made."""
        await self._made.wait()


@contextmanager
def _signals(stop: StopRequest) -> Iterator[None]:
    """Turn SIGTERM and SIGINT into a stop request."""

    def ask(_signal: int, _frame: FrameType | None) -> None:
        stop.make()

    before = {number: signal.signal(number, ask) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


async def _run(settings: Settings) -> int:
    stop = StopRequest(settings.side_streams.stop_timeout_ms / 1000)
    connection = connect(settings.kafka)
    with _signals(stop), tempfile.TemporaryDirectory(prefix="stream-infer-") as data_dir:
        await wait_until_reachable(connection, REACH_SECONDS)
        await check_needs(connection, settings)
        async with AsyncExitStack() as stack:
            is_answering = has_task(settings, Task.ANSWER)
            embedder = await stack.enter_async_context(open_embedder(settings)) if is_answering else None
            publishers = {name: await stack.enter_async_context(Publisher(connection)) for name in AGENTS}
            return await _serve(StreamsApp(settings, connection, embedder, publishers, data_dir), stop)


async def _serve(streams: StreamsApp, stop: StopRequest) -> int:
    await streams.faust.start()
    log.info("streams_started")
    error = await _wait_for_end(streams, stop)
    stop.make()
    if error is not None:
        log.error("streams_failed", exc_info=error)
    await streams.drain()
    await streams.faust.stop()
    log.info("streams_stopped")
    return EXIT_FAILED if error is not None else 0


async def _wait_for_end(streams: StreamsApp, stop: StopRequest) -> BaseException | None:
    """Return None once a stop was asked for, or the failure that came first."""
    waiting = [asyncio.ensure_future(stop.wait()), asyncio.ensure_future(streams.faust.wait_until_stopped())]
    try:
        await asyncio.wait([*waiting, streams.failed], return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
    return streams.failed.exception() if streams.failed.done() else streams.faust.crash_reason
