"""A TCP proxy on loopback that can be slow, stand still, and cut the connections that pass through it."""

from __future__ import annotations

import asyncio
import contextlib
from asyncio import StreamReader, StreamWriter
from types import TracebackType
from typing import Final, Self

from stream_infer.bus.embedded import HOST

_CHUNK: Final = 64 * 1024


class Proxy:
    """Carries bytes between clients and one port; what it does to them holds until it is told otherwise."""

    def __init__(self, upstream: int) -> None:
        self.delay = 0.0
        """Seconds that each chunk of bytes is held back, in either direction."""
        self._upstream = upstream
        self._flows = asyncio.Event()
        self._flows.set()
        self._writers: set[StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, HOST, 0)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.close()
        self.cut()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @property
    def port(self) -> int:
        """Where clients find it."""
        return int(self._server.sockets[0].getsockname()[1])

    @property
    def connections(self) -> int:
        """How many connections pass through."""
        return len(self._writers) // 2

    def cut(self) -> int:
        """Reset every connection, and return how many there were; new ones are taken."""
        count = self.connections
        for writer in self._writers:
            writer.transport.abort()
        return count

    def stall(self) -> None:
        """Carry nothing more, and leave the connections open."""
        self._flows.clear()

    def resume(self) -> None:
        """Carry on, beginning with what was held up."""
        self._flows.set()

    async def _accept(self, reader: StreamReader, writer: StreamWriter) -> None:
        try:
            upstream_reader, upstream_writer = await asyncio.open_connection(HOST, self._upstream)
        except OSError:
            writer.transport.abort()
            return
        pair = (writer, upstream_writer)
        self._writers.update(pair)
        both = [
            asyncio.create_task(self._carry(source, target, pair))
            for source, target in ((reader, upstream_writer), (upstream_reader, writer))
        ]
        for task in both:
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _carry(
        self, reader: StreamReader, writer: StreamWriter, pair: tuple[StreamWriter, ...]
    ) -> None:
        """Carry one direction until either end is over, which ends both."""
        try:
            with contextlib.suppress(OSError):
                while chunk := await reader.read(_CHUNK):
                    await self._flows.wait()
                    if self.delay:
                        await asyncio.sleep(self.delay)
                    writer.write(chunk)
                    await writer.drain()
        finally:
            for each in pair:
                each.transport.abort()
            self._writers.difference_update(pair)
