"""Two processes, one group, the brokers and the network between them: what can happen next, and what may not.

A world is a chain of steps. Between two steps every process has gone on until it waits for an answer, for
records, for the engine or for time to pass, so a step is all that can be told from outside.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Collection, Hashable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple
from unittest.mock import patch

from stream_infer.bus.offsets import Committed
from stream_infer.flow import offsets
from stream_infer.flow.offsets import MAX_METADATA_BYTES, parse_metadata
from stream_infer.schemas import Ordering, Partition
from stream_infer.service import intake
from tests.model.fingerprints import of_request, of_worker
from tests.model.network import Request
from tests.model.simulated_bus import SimulatedBus
from tests.model.simulated_worker import GROUP, PRODUCT, TOPIC, Parts, SimulatedWorker
from tests.model.stepping import SteppedLoop


class Turns:
    """What the intake knows of asyncio, where a turn of others is a step of its own."""

    @staticmethod
    async def sleep(_seconds: float) -> None:
        """Wait until it is told to go on."""
        loop = asyncio.get_running_loop()
        assert isinstance(loop, SteppedLoop)
        await loop.give_turn()


TURNS = Turns()
PARTITION = Partition(TOPIC, 0)
IDENTITY = f"{GROUP}.{TOPIC}.0"


class Step(NamedTuple):
    """What happens to whom, and to which of its requests or records."""

    what: str
    worker: str = ""
    which: str = ""

    def __str__(self) -> str:
        return " ".join(filter(None, self))

    def commutes_with(self, other: Step) -> bool:
        """Whether it makes no difference which of the two comes first, whatever the state.

        So it is for steps of different processes if one of them touches nothing but its process, or both
        touch the brokers in ways that do not meet.
        """
        if self.worker == other.worker or not (self.worker and other.worker):
            return False
        kinds = self._kind, other._kind
        return not (_OF_THE_GROUP & {*kinds}) and (
            bool(_INNER & {*kinds}) or (kinds[0] in _MEETING_NO_OTHER and kinds[1] in _MEETING_NO_OTHER)
        )

    @property
    def _kind(self) -> str:
        return self.which.partition(" ")[0] if self.what == "arrive" else self.what


_OF_THE_GROUP = {"crash", "evict", "revoke", "expire", "straggle"}
_INNER = {"fetch", "finish", "learn"}
_MEETING_NO_OTHER = {"read", "write", "position"}


class Violation(AssertionError):  # noqa: N818 - it is what the search is for
    """Something happened that is promised never to happen."""


@dataclass(frozen=True, slots=True)
class Scenario:
    """What there is to do, and how much may go wrong."""

    keys: Sequence[bytes | None]
    ordering: Ordering = Ordering.KEY
    moves: int = 0
    """How often the partition goes to the other process."""
    ways: Collection[str] = ("crash", "evict", "revoke")
    """How it goes: by a crash, behind the owner's back, or in order."""
    failures: int = 0
    """How many requests lose their answer, or are late."""
    fragile: str = ""
    """The kind of requests that this happens to; any if empty."""
    expiries: int = 0
    """How many transactions the broker gives up."""
    returns: int = 1
    """How often a process that has lost the partition and does not know it takes it back."""
    fetches: int = 100
    """Records that come at once."""
    max_metadata_bytes: int = MAX_METADATA_BYTES
    """What the broker takes, and the product keeps to."""
    engine: Literal["slow", "instant"] = "slow"
    """Whether the engine takes its time over each record, or has all done as soon as they come."""
    takes_turns: bool = False
    """Whether others have their turn after each record that is taken in."""

    @contextmanager
    def in_force(self) -> Iterator[None]:
        """Let the product know of limits for the length of a context."""
        with ExitStack() as stack:
            room = self.max_metadata_bytes - MAX_METADATA_BYTES + offsets._MAX_RUN_BYTES
            stack.enter_context(patch.object(offsets, "_MAX_RUN_BYTES", room))
            if self.takes_turns:
                for name, value in {"ADMITTED_AT_ONCE": 1, "LONGEST_TURN": -1.0, "asyncio": TURNS}.items():
                    stack.enter_context(patch.object(intake, name, value))
            yield


class World:
    """A state, made by steps from the first one."""

    def __init__(self, scenario: Scenario, parts: Parts = PRODUCT) -> None:
        self._scenario = scenario
        self._parts = parts
        self._moves = scenario.moves
        self._failures = scenario.failures
        self._expiries = scenario.expiries
        self._returns = scenario.returns
        self._bus = SimulatedBus(max_metadata_bytes=scenario.max_metadata_bytes)
        self._bus.produce(PARTITION, scenario.keys)
        self._processes = {name: self._new_process() for name in "ab"}
        self._strays: dict[str, Request[Any]] = {}
        """Requests of processes that have crashed."""
        self._crashes = 0
        self._checked = 0
        self._seen_fences = 0
        self._owner = "a"
        """Who has the partition, as the group sees it."""
        self._waits_for: str | None = None
        """Who is still to give it up before."""
        self._let_group_go_on()

    def steps(self) -> list[Step]:
        """Return all that can happen now; nothing at the end."""
        return [*self._usual_steps(), *self._faults()]

    def do(self, step: Step) -> None:
        """Take a step.

        Raises:
            Violation: the product failed on it.
        """
        try:
            getattr(self, f"_{step.what}")(step.worker, step.which)
        except Violation:
            raise
        except Exception as error:
            raise Violation(f"{step}: {error!r}") from error
        self._let_group_go_on()
        if self._bus.fences != self._seen_fences:
            self._discard_moot()

    def produce(self, keys: Sequence[bytes | None], gap: int) -> None:
        """Append records to the input, after a gap."""
        self._bus.produce(PARTITION, keys, gap)

    def let_nothing_go_wrong(self) -> None:
        """Have no more faults."""
        self._moves = self._failures = self._expiries = self._returns = 0

    def check(self) -> None:
        """Fail if a promise is broken."""
        for name, process in self._processes.items():
            if faults := [*process.worker.faults, *process.worker.loop.errors]:
                raise Violation(f"process {name}: {', '.join(faults)}")
        if self._bus.refused:
            raise Violation(f"the broker refused metadata: {self._bus.refused}")
        if self._bus.changes != self._checked:
            self._checked = self._bus.changes
            self._check_outcomes()
            self._check_order()

    def check_end(self) -> None:
        """Fail unless all that there was to do is done, which must be so once nothing can happen any more."""
        missing = {each.offset for each in self._bus.logs[PARTITION]} - self._offsets_out().keys()
        if missing:
            raise Violation(f"offsets {sorted(missing)} were never committed")

    def close(self) -> None:
        """End the processes."""
        for process in self._processes.values():
            process.worker.crash()

    def fingerprint(self) -> Hashable:
        """Return the same for states from which the same can happen."""
        return (
            self._bus.state(),
            (self._owner, self._waits_for, self._moves, self._failures, self._expiries, self._returns),
            tuple((each.is_current, of_worker(each.worker, self._bus)) for each in self._processes.values()),
            tuple(sorted(repr(of_request(stray, self._bus)) for stray in self._strays.values())),
        )

    def _usual_steps(self) -> Iterator[Step]:
        for name, process in self._processes.items():
            worker = process.worker
            for request in worker.network.awaited():
                yield Step("arrive", name, request.name)
            if worker.can_fetch():
                yield Step("fetch", name)
            for record in worker.in_flight:
                yield Step("finish", name, str(record.offset))
            if worker.loop.turn is not None:
                yield Step("turn", name)
            if worker.loop.has_timer and self._may_go_on(process):
                yield Step("wait", name)
            if PARTITION in worker.tenures and not process.is_current and not process.is_releasing:
                yield Step("learn", name)
            for request in worker.network.strays():
                yield Step("straggle", name, request.name)
        for name in self._strays:
            yield Step("straggle", "", name)

    def _may_go_on(self, process: Process) -> bool:
        """Whether a process may go on after a pause: or two would take it from each other for ever."""
        return process.is_current or process.is_releasing or process.worker.is_open or self._returns > 0

    def _faults(self) -> Iterator[Step]:
        if self._failures:
            for name, process in self._processes.items():
                for request in process.worker.network.awaited():
                    if request.name.startswith(self._scenario.fragile):
                        yield Step("lose", name, request.name)
        if self._moves:
            owner = self._waits_for or self._owner
            for way in self._scenario.ways:
                if way == "crash" or self._processes[owner].is_current:
                    yield Step(way, owner)
        if self._expiries and IDENTITY in self._bus.open:
            yield Step("expire")

    def _arrive(self, name: str, which: str) -> None:
        process = self._processes[name]
        request = process.worker.network.requests.pop(which)
        request.arrive()
        process.worker.loop.settle()

    def _lose(self, name: str, which: str) -> None:
        self._failures -= 1
        process = self._processes[name]
        request = process.worker.network.requests[which]
        request.lose()
        process.worker.loop.settle()

    def _straggle(self, name: str, which: str) -> None:
        strays = self._processes[name].worker.network.requests if name else self._strays
        strays.pop(which).arrive()

    def _fetch(self, name: str, _: str) -> None:
        process = self._processes[name]
        process.worker.fetch(PARTITION, self._scenario.fetches)
        if self._scenario.engine == "instant":
            for record in list(process.worker.in_flight):
                process.worker.finish(record)

    def _finish(self, name: str, which: str) -> None:
        process = self._processes[name]
        process.worker.finish(next(each for each in process.worker.in_flight if str(each.offset) == which))

    def _wait(self, name: str, _: str) -> None:
        process = self._processes[name]
        if not (process.is_current or process.is_releasing or process.worker.is_open):
            self._returns -= 1
        process.worker.loop.pass_time()

    def _turn(self, name: str, _: str) -> None:
        self._processes[name].worker.take_turn()

    def _learn(self, name: str, _: str) -> None:
        process = self._processes[name]
        process.worker.revoke(PARTITION)

    def _evict(self, name: str, _: str) -> None:
        """The group gives the partition to the other process, and the owner does not know."""
        self._moves -= 1
        self._processes[name].is_current = False
        self._owner = _other(name)

    def _revoke(self, name: str, _: str) -> None:
        """The group asks the owner to give the partition up, and waits for that."""
        self._evict(name, "")
        self._waits_for = name
        self._learn(name, "")

    def _crash(self, name: str, _: str) -> None:
        self._moves -= 1
        self._crashes += 1
        worker = self._processes[name].worker
        worker.crash()
        for request in worker.network.requests.values():
            self._strays[f"{request.name} of {name} before crash {self._crashes}"] = request
        self._processes[name] = self._new_process()
        self._owner = _other(name)
        self._waits_for = None

    def _expire(self, _name: str, _which: str) -> None:
        self._expiries -= 1
        self._bus.expire(IDENTITY)

    def _new_process(self) -> Process:
        return Process(SimulatedWorker(self._bus, self._scenario.ordering, self._parts))

    def _let_group_go_on(self) -> None:
        if self._waits_for and PARTITION not in self._processes[self._waits_for].worker.tenures:
            self._waits_for = None
        heir = self._processes[self._owner]
        if self._waits_for is None and PARTITION not in heir.worker.tenures:
            heir.is_current = True
            heir.worker.assign(PARTITION)

    def _discard_moot(self) -> None:
        self._seen_fences = self._bus.fences
        for process in self._processes.values():
            process.worker.network.discard(self._bus.is_moot)
        for name in [name for name, stray in self._strays.items() if self._bus.is_moot(stray.tag[1])]:
            del self._strays[name]

    def _check_outcomes(self) -> None:
        """Every record below the position or named above it is out, once, and no other is."""
        found = self._offsets_out()
        expected = self._offsets_done()
        if repeated := sorted(offset for offset, count in found.items() if count > 1):
            raise Violation(f"offsets {repeated} are out more than once")
        if lost := sorted(expected - found.keys()):
            raise Violation(f"offsets {lost} count as done and are not out")
        if unsaid := sorted(found.keys() - expected):
            raise Violation(f"offsets {unsaid} are out and do not count as done")

    def _check_order(self) -> None:
        last: dict[bytes | None, int] = {}
        for record in self._bus.committed():
            offset = _offset(record.value)
            key = b"" if self._scenario.ordering is Ordering.PARTITION else record.key
            if self._scenario.ordering is not Ordering.NONE and key is not None:
                if last.get(key, -1) > offset:
                    raise Violation(f"offset {offset} is out after {last[key]}, which has its key")
                last[key] = offset

    def _offsets_out(self) -> Counter[int]:
        return Counter(_offset(record.value) for record in self._bus.committed())

    def _offsets_done(self) -> set[int]:
        committed = self._bus.positions.get(PARTITION, Committed())
        position = committed.offset or 0
        above = parse_metadata(position, committed.metadata)
        return {
            each.offset
            for each in self._bus.logs[PARTITION]
            if each.offset < position or any(each.offset in run for run in above)
        }


@dataclass(slots=True)
class Process:
    """A process, and whether what it believes to own is its own."""

    worker: SimulatedWorker
    is_current: bool = False

    @property
    def is_releasing(self) -> bool:
        """Whether it is giving the partition up."""
        tenure = self.worker.tenures.get(PARTITION)
        return tenure is not None and tenure.release is not None


def _other(name: str) -> str:
    return "b" if name == "a" else "a"


def _offset(value: bytes | None) -> int:
    return int((value or b"").rpartition(b"/")[2])
