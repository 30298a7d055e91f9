"""One run: faults strike, one after the other, while records flow; then everything is judged."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from typing import Final

import structlog

from loadgen.auditor import audit
from loadgen.broker import Broker
from loadgen.verdict import Verdict
from tests.faults.catalogue import faults_for
from tests.faults.scene import INPUT, OUTPUTS, Conditions, NotRealError, Scene, set_scene
from tests.faults.schedule import Injection

PATIENCE_S: Final = 180.0
"""How long service may take to resume after a fault, or everything to be finished at the end."""
WARM_UP: Final = 200
"""Outcomes after which the first fault may strike."""

Marks = Mapping[int, int]
"""An offset for each partition."""

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Struck:
    """A fault that struck, and what followed. Times are seconds since the run began."""

    injection: Injection
    at: float
    lifted: float
    recovered: float | None
    """When each partition had the outcome of a record that was written after the fault was lifted."""
    begin: Marks
    """For each partition a place before which all outcomes were there when the fault struck."""
    end: Marks
    """Where each partition ended when service had recovered: what lies between was under test."""
    not_real: str = ""
    """Why the fault was none, if it was not."""

    @property
    def recovery_s(self) -> float | None:
        """Seconds from the fault's end until service was what it had been."""
        return None if self.recovered is None else self.recovered - self.lifted

    @property
    def records(self) -> int:
        """How many records were under test."""
        return sum(max(0, end - self.begin.get(partition, 0)) for partition, end in self.end.items())

    def covers(self, partition: int, offset: int) -> bool:
        """Return whether a record was under test."""
        return self.begin.get(partition, 0) <= offset < self.end.get(partition, 0)


@dataclass(frozen=True, slots=True)
class Result:
    """What a run found."""

    kind: str
    struck: Sequence[Struck]
    verdict: Verdict
    own_ends: Sequence[int]
    """How workers ended that nobody wanted to end; they were started again."""
    seconds: float
    problems: Sequence[str] = ()

    @property
    def has_passed(self) -> bool:
        """Whether every promise was kept."""
        return self.verdict.is_clean and not self.problems

    @property
    def untried(self) -> Sequence[str]:
        """The faults of which nothing ever came, however often they were to strike: they show nothing."""
        real = {struck.injection.fault for struck in self.struck if not struck.not_real}
        return sorted({struck.injection.fault for struck in self.struck} - real)


@dataclass(slots=True)
class _Course:
    """What has happened in a run so far."""

    started: float = field(default_factory=monotonic)
    struck: list[Struck] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def now(self) -> float:
        return monotonic() - self.started


async def run(
    kind: str,
    schedule: Sequence[Injection],
    conditions: Conditions,
    directory: Path,
    *,
    seed: int,
    records: int = 0,
    on_struck: Callable[[Struck], None] = lambda _: None,
    sabotage: Callable[[Scene], Awaitable[None]] | None = None,
) -> Result:
    """Carry a schedule out under load of at least so many records, and judge what came of these.

    Logs and data lie in `directory`. `sabotage` is called before the verdict, to see that it would find
    what it is there to find.
    """
    course = _Course()
    async with set_scene(kind, directory, conditions, seed) as scene:
        await _strike_all(scene, schedule, course, on_struck)
        while scene.load.total < records:
            await scene.progress.changes()
        await _wind_up(scene, course)
        if sabotage is not None:
            await sabotage(scene)
        verdict = await audit(Broker(scene.brokers.direct_servers), [INPUT], OUTPUTS)
    return Result(kind, course.struck, verdict, scene.workers.own_ends, course.now(), course.problems)


async def _strike_all(
    scene: Scene, schedule: Sequence[Injection], course: _Course, on_struck: Callable[[Struck], None]
) -> None:
    while scene.progress.total < WARM_UP:
        await scene.progress.changes()
    recovering: set[asyncio.Task[None]] = set()
    for injection in schedule:
        if recovering and not injection.is_overlapping:
            await asyncio.wait(recovering)
            recovering.clear()
        await asyncio.sleep(injection.pause)
        recovering.add(await _strike(scene, injection, course, on_struck))
    if recovering:
        await asyncio.wait(recovering)


async def _strike(
    scene: Scene, injection: Injection, course: _Course, on_struck: Callable[[Struck], None]
) -> asyncio.Task[None]:
    """Have a fault strike, and return the task that waits for service to recover from it."""
    fault = faults_for(scene.brokers.kind)[injection.fault]
    begin, at, not_real = dict(scene.progress.finished), course.now(), ""
    log.info("fault_strikes", fault=fault.name, seed=injection.seed)
    try:
        await fault.strike(scene, random.Random(injection.seed))
    except NotRealError as error:
        not_real = str(error)
    except Exception as error:  # noqa: BLE001 - an operator's tool may fail on a broker that has just come back
        not_real = repr(error)
    await scene.workers.restore()
    lifted = course.now()

    async def recover() -> None:
        recovered = await _recovered(scene, course, fault.name)
        struck = Struck(injection, at, lifted, recovered, begin, dict(scene.load.written), not_real=not_real)
        course.struck.append(struck)
        on_struck(struck)

    return asyncio.create_task(recover())


async def _recovered(scene: Scene, course: _Course, fault: str) -> float | None:
    """Return when every partition had an outcome of what was written from now on."""
    try:
        async with asyncio.timeout(PATIENCE_S):
            await scene.progress.passes(dict(scene.load.written))
    except TimeoutError:
        course.problems.append(f"{fault}: no service in every partition within {PATIENCE_S:g} s")
        return None
    return course.now()


async def _wind_up(scene: Scene, course: _Course) -> None:
    """End the load, wait for what is left of it, and stop the workers politely."""
    scene.load.end()
    try:
        async with asyncio.timeout(PATIENCE_S):
            await scene.progress.finishes(dict(scene.load.written))
    except TimeoutError:
        course.problems.append(f"not everything was finished within {PATIENCE_S:g} s")
    for worker in scene.workers.members:
        await worker.stop()
    course.problems += [f"asked to stop, {how}" for how in scene.workers.bad_stops]
