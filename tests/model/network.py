"""What lies between a process and the brokers: requests that arrive late, or whose answers are lost."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass
from itertools import count
from typing import Any, Generic, TypeVar

from stream_infer.errors import BusError

Answer = TypeVar("Answer")


@dataclass(eq=False, slots=True)
class Request(Generic[Answer]):
    """A request on its way: what it does at the broker, and what will say how that went."""

    name: str
    tag: tuple[str, Hashable]
    """Equal for requests that do the same at the broker."""
    operation: Callable[[], Answer]
    answer: asyncio.Future[Answer]

    @property
    def is_awaited(self) -> bool:
        """Whether the process still waits for the answer; nobody else would miss the request."""
        return not self.answer.done()

    def abandon(self) -> None:
        """Wait no longer: the request may arrive nevertheless."""
        if self.is_awaited:
            self.answer.cancel()
        elif not self.answer.cancelled():
            self.answer.exception()

    def arrive(self) -> object:
        """Let the broker carry it out; return what it answers, an error included."""
        try:
            found = self.operation()
        except BusError as error:
            if self.is_awaited:
                self.answer.set_exception(error)
            return error
        if self.is_awaited:
            self.answer.set_result(found)
        return found

    def lose(self) -> None:
        """Break the connection: the process learns nothing, and the request may arrive later."""
        self.answer.set_exception(BusError("the connection broke"))


class Network:
    """The requests of one process."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.requests: dict[str, Request[Any]] = {}
        """Those that have not arrived, by name."""
        self._loop = loop

    def crash(self, waiting: Callable[[], None]) -> None:
        """Let `waiting` end those who wait; what was sent before is still on its way."""
        sent = dict(self.requests)
        waiting()
        self.requests = sent

    def discard(self, is_moot: Callable[[Hashable], bool]) -> None:
        """Forget requests that would change nothing and that nobody waits for."""
        moot = [each.name for each in self.strays() if is_moot(each.tag[1])]
        for name in moot:
            del self.requests[name]

    def awaited(self) -> Iterator[Request[Any]]:
        """Yield the requests whose answers the process waits for."""
        return (request for request in self.requests.values() if request.is_awaited)

    def strays(self) -> Iterator[Request[Any]]:
        """Yield the requests that may arrive though nobody waits for them any more."""
        return (request for request in self.requests.values() if not request.is_awaited)

    def send(self, kind: str, operation: Callable[[], Answer], tag: Hashable = ()) -> Request[Answer]:
        """Let a request travel."""
        name = next(name for name in self._names(kind) if name not in self.requests)
        request = Request(name, (kind, tag), operation, self._loop.create_future())
        self.requests[request.name] = request
        return request

    async def ask(self, kind: str, operation: Callable[[], Answer], tag: Hashable = ()) -> Answer:
        """Return the answer, or raise what the broker or the network made of it."""
        return await self.send(kind, operation, tag).answer

    async def ask_until_answered(self, kind: str, operation: Callable[[], Answer]) -> Answer:
        """Return the answer, asking again whenever the connection breaks."""
        while True:
            try:
                return await self.ask(kind, operation)
            except BusError:
                continue

    def _names(self, kind: str) -> Iterator[str]:
        """Yield names, so that those of equal states are equal."""
        return (f"{kind} {number}" if number else kind for number in count())
