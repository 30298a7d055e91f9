"""The service's handle on one replica: the processes that hold and run all of its models."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from time import monotonic
from types import TracebackType
from typing import Final, Self

import structlog

from stream_infer.engine.processes import ChildProcess, NurseryProcess
from stream_infer.engine.specs import ModelSpec
from stream_infer.engine.wire import Message, decode_info, decode_outputs, encode_batch
from stream_infer.errors import (
    ConfigError,
    EngineError,
    ModelFailedError,
    OutOfMemoryError,
    ReplicaDiedError,
    ReplicaTimeoutError,
)
from stream_infer.schemas import ModelInfo, Output, Tokens

DEFAULT_WATCHDOG_S: Final = 30.0
IN_HAND: Final = 2
"""Batches that a process has: the one it runs, and the next."""
WATCHDOG_FACTOR: Final = 10.0
"""A batch may take so many times its predicted time before its replica is taken for hung."""

_FIRST_BACKOFF_S: Final = 0.05
_LONGEST_BACKOFF_S: Final = 10.0
_BURIAL_S: Final = 10.0
_ERRORS: Final[Mapping[str, type[EngineError]]] = {
    ModelFailedError.reason: ModelFailedError,
    OutOfMemoryError.reason: OutOfMemoryError,
}

log = structlog.get_logger(__name__)


@dataclass(eq=False, slots=True)
class _Call:
    """A batch that the replica was asked to run, and the process that has it, if one has."""

    number: int
    model: str
    message: Message
    expected: float
    child: ChildProcess | None = None

    def send_to(self, child: ChildProcess) -> None:
        """Hand the batch over to a process."""
        self.child = child
        child.send({"number": self.number, **self.message})


class Replica:
    """All models of a service in a process of their own, kept alive.

    Entering starts it, which takes as long as importing torch and loading the models. A child that
    died or was killed by the watchdog is replaced, with every model, when the next batch comes; from
    the second death in a row on, a growing pause comes first. `watchdog` is the least time, in
    seconds, that a batch is given, and `factor` how many times its predicted time.
    """

    def __init__(
        self,
        models: Sequence[ModelSpec],
        *,
        threads: int,
        watchdog: float = DEFAULT_WATCHDOG_S,
        factor: float = WATCHDOG_FACTOR,
    ) -> None:
        self.infos: Mapping[str, ModelInfo] = {}
        self.respawns = 0
        self._models = tuple(models)
        self.threads = threads
        self._watchdog = watchdog
        self._factor = factor
        self._nursery: NurseryProcess | None = None
        self._child: ChildProcess | None = None
        self._deaths_in_a_row = 0
        self._first_start = 0.0
        self._room = asyncio.Semaphore(IN_HAND)
        self._turn = asyncio.Lock()
        self._numbers = itertools.count()
        self._calls: list[_Call] = []
        """Those that have no answer yet, in the order of their turns."""

    async def __aenter__(self) -> Self:
        """Start the processes and load every model.

        Raises:
            ConfigError: a model cannot be loaded; names each such model and its source.
        """
        started = monotonic()
        try:
            self._child = await self._spawn()
        except ReplicaDiedError as error:
            await self._stop()
            raise ConfigError(f"{error}; its last words are in the log") from error
        except BaseException:
            await self._stop()
            raise
        self._first_start = monotonic() - started
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the processes, whatever they are doing."""
        await self._stop()

    @property
    def pid(self) -> int | None:
        """The process that runs batches, or None while there is none."""
        return self._child.pid if self._child and self._child.is_alive else None

    @property
    def resident_bytes(self) -> int:
        """Memory that the process that runs batches holds, 0 while there is none."""
        return self._child.resident_bytes if self._child else 0

    async def run(
        self,
        model: str,
        batch: Sequence[Tokens],
        options: Sequence[str],
        *,
        expected: float,
        threads: int | None = None,
    ) -> list[Output]:
        """Return the output of each item, in order; calls are answered one after the other.

        The process has the batch of one call more at hand than it runs, so that it need not wait between
        the two. What befalls the one that runs is not the other's fault: that is sent again.
        `expected` is the predicted time in seconds, from when the batch runs. `threads` is at most the
        replica's share of the cores, which is also the default.

        Raises:
            ModelFailedError: the model raised.
            OutOfMemoryError: memory ran out; the replica lives on.
            ReplicaDiedError: the process ended during the batch, answered to another one and was killed,
                or cannot be replaced.
            ReplicaTimeoutError: no answer within the watchdog's time; the process was killed.
        """
        message = encode_batch(model, batch, options, min(threads or self.threads, self.threads))
        async with self._room:
            call = _Call(next(self._numbers), model, message, expected)
            # Nothing is awaited between these two, so turns come in the order of the calls.
            self._send_ahead(call)
            self._calls.append(call)
            try:
                async with self._turn:
                    return _read_outputs(model, await self._answer(call))
            except asyncio.CancelledError:
                # Its answer, when it came, would be taken for the next batch's.
                if call.child is not None:
                    call.child.kill()
                raise
            finally:
                self._calls.remove(call)

    def _send_ahead(self, call: _Call) -> None:
        """Send a batch at once if the process lives, to be run when what was sent before has been run.

        Only if it has all batches whose turns come before: answers come in the order of sending.
        """
        child = self._child
        if child is not None and child.is_alive and all(each.child is child for each in self._calls):
            call.send_to(child)

    async def _answer(self, call: _Call) -> Message:
        """Return what the process answers to the call whose turn it is."""
        child = call.child
        if child is None or child is not self._child or child.is_killed:
            child = await self._living_child()
            call.send_to(child)
        allowed = max(self._watchdog, call.expected * self._factor)
        try:
            async with asyncio.timeout(allowed):
                reply = await child.receive()
        except TimeoutError as error:
            await self._bury(child)
            raise ReplicaTimeoutError(f"{call.model}: no answer within {allowed:.1f} s") from error
        if reply is None:
            raise ReplicaDiedError(f"{call.model}: the replica {await self._bury(child)}")
        if reply["number"] != call.number:
            # One record must never get what another one asked for: what is out of step is not to be trusted.
            how = await self._bury(child)
            raise ReplicaDiedError(
                f"{call.model}: the replica answered batch {reply['number']} for {call.number}, and {how}"
            )
        self._deaths_in_a_row = 0
        return reply

    async def _living_child(self) -> ChildProcess:
        if self._child is not None:
            if self._child.is_alive:
                return self._child
            await self._bury(self._child)
        await asyncio.sleep(backoff(self._deaths_in_a_row))
        try:
            self._child = await self._replace()
        except ReplicaDiedError:
            self._deaths_in_a_row += 1
            raise
        self.respawns += 1
        log.info("replica_respawned", pid=self._child.pid, respawns=self.respawns)
        return self._child

    async def _replace(self) -> ChildProcess:
        """Start the next child; one that takes much longer than the first is given up with its nursery."""
        allowed = max(self._watchdog, self._first_start * self._factor)
        try:
            async with asyncio.timeout(allowed):
                return await self._spawn()
        except TimeoutError as error:
            await self._give_nursery_up()
            raise ReplicaDiedError(f"the replica's successor did not load within {allowed:.1f} s") from error
        except ConfigError as error:
            raise ReplicaDiedError(f"the replica cannot be replaced: {error}") from error

    async def _spawn(self) -> ChildProcess:
        if self._nursery is not None and self._nursery.process.returncode is not None:
            await self._give_nursery_up()
        if self._nursery is None:
            self._nursery = await NurseryProcess.start(self._models, self.threads)
        child, first = await self._nursery.fork()
        infos = [decode_info(info) for info in first["infos"]]
        self.infos = {info.name: info for info in infos}
        return child

    async def _bury(self, child: ChildProcess) -> str:
        self._child = None
        self._deaths_in_a_row += 1
        how = await self._burial(child)
        log.warning("replica_died", pid=child.pid, how=how, deaths_in_a_row=self._deaths_in_a_row)
        return how

    async def _stop(self) -> None:
        child, self._child = self._child, None
        if child is not None:
            child.kill()
        await self._give_nursery_up()

    async def _burial(self, child: ChildProcess) -> str:
        """Wait for the child's end, for a bounded time: a process may hang in the kernel."""
        if self._nursery is None:
            return "ended"
        try:
            async with asyncio.timeout(_BURIAL_S):
                return await self._nursery.bury(child)
        except TimeoutError:
            await self._give_nursery_up()
            return f"did not end within {_BURIAL_S:.0f} s of being killed"

    async def _give_nursery_up(self) -> None:
        nursery, self._nursery = self._nursery, None
        if nursery is not None:
            await nursery.stop()


def backoff(deaths_in_a_row: int) -> float:
    """Return the pause in seconds before a replica is replaced: none after the first death."""
    if deaths_in_a_row <= 1:
        return 0.0
    return min(_LONGEST_BACKOFF_S, _FIRST_BACKOFF_S * 2.0 ** (deaths_in_a_row - 2))


def _read_outputs(model: str, reply: Message) -> list[Output]:
    if "error" in reply:
        raise _ERRORS[reply["reason"]](f"{model}: {reply['error']}")
    return decode_outputs(reply)
