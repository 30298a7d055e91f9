"""An event loop that runs until nothing is ready, and lets time pass only when told to.

Every process of a model has its own. What asyncio's tasks, futures, events and timeouts need of a loop is
here, and nothing else, so that what happens depends on nothing but the steps taken.
"""

from __future__ import annotations

import asyncio
import heapq
from collections import deque
from collections.abc import Callable
from contextvars import Context
from typing import Any


class SteppedLoop(asyncio.AbstractEventLoop):
    """Runs what is ready in `settle`; the first timer goes off in `pass_time`."""

    def __init__(self) -> None:
        self.errors: list[str] = []
        """What asyncio reported: exceptions that nobody handled."""
        self._ready: deque[asyncio.Handle] = deque()
        self._timers: list[tuple[float, int, asyncio.TimerHandle]] = []
        self._now = 0.0
        self.turn: asyncio.Future[None] | None = None
        """What waits for others to have had their turn."""
        self._count = 0

    def settle(self) -> None:
        """Run until every task waits for something outside."""
        running = asyncio._get_running_loop()
        asyncio._set_running_loop(self)
        try:
            while self._ready:
                handle = self._ready.popleft()
                if not handle._cancelled:
                    # In no context of its own: nothing here has one.
                    handle._callback(*handle._args)  # type: ignore[attr-defined] # typeshed leaves it out
        finally:
            asyncio._set_running_loop(running)

    @property
    def has_timer(self) -> bool:
        """Whether anything waits for time to pass."""
        while self._timers and self._timers[0][2].cancelled():
            heapq.heappop(self._timers)
        return bool(self._timers)

    def pass_time(self) -> None:
        """Let the first timer go off."""
        assert self.has_timer
        self._now, _, handle = heapq.heappop(self._timers)
        self._ready.append(handle)
        self.settle()

    async def give_turn(self) -> None:
        """Wait until `take_turn`."""
        self.turn = self.create_future()
        await self.turn

    def take_turn(self) -> None:
        """Let go on what waits for its turn."""
        turn, self.turn = self.turn, None
        assert turn is not None
        if not turn.cancelled():
            turn.set_result(None)
        self.settle()

    def time(self) -> float:
        """Return how much time was let pass."""
        return self._now

    def call_soon(  # type: ignore[override] # what is called may take anything
        self, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.Handle:
        """Make a callback ready."""
        handle = asyncio.Handle(callback, args, self, context)
        self._ready.append(handle)
        return handle

    def call_later(  # type: ignore[override] # what is called may take anything
        self, delay: float, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.TimerHandle:
        """Make a callback ready after a delay."""
        return self.call_at(self._now + delay, callback, *args, context=context)

    def call_at(  # type: ignore[override] # what is called may take anything
        self, when: float, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.TimerHandle:
        """Make a callback ready at a time."""
        handle = asyncio.TimerHandle(when, callback, args, self, context)
        self._count += 1
        heapq.heappush(self._timers, (when, self._count, handle))
        return handle

    def create_future(self) -> asyncio.Future[Any]:
        """Return a future of this loop."""
        return asyncio.Future(loop=self)

    def create_task(self, coro: Any, **options: Any) -> asyncio.Task[Any]:
        """Return a task of this loop."""
        return asyncio.Task(coro, loop=self, **options)

    def get_debug(self) -> bool:
        """Return that nothing is checked besides."""
        return False

    def is_running(self) -> bool:
        """Return what tasks expect."""
        return True

    def is_closed(self) -> bool:
        """Return what tasks expect."""
        return False

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        """Keep what nobody handled."""
        self.errors.append(f"{context.get('message')}: {context.get('exception')!r}")

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        """Do nothing: cancelled timers are passed over."""
