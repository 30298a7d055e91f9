"""Every order in which steps can follow each other, up to a scenario's bounds."""

from __future__ import annotations

from dataclasses import dataclass

from tests.model.simulated_worker import PRODUCT, Parts
from tests.model.world import Scenario, Step, Violation, World


@dataclass(frozen=True, slots=True)
class Counterexample:
    """Steps that break a promise, and which."""

    steps: tuple[Step, ...]
    violation: str

    def __str__(self) -> str:
        numbered = (f"{number:3}. {step}" for number, step in enumerate(self.steps, 1))
        return "\n".join([*numbered, f"     {self.violation}"])


@dataclass(slots=True)
class Exploration:
    """How much was seen, and what was found."""

    states: int = 0
    paths: int = 0
    ends: int = 0
    found: Counterexample | None = None


class Explorer:
    """Takes every step from every state, until a promise is broken or nothing is new.

    Running tasks cannot be copied, so each path is walked from the start. States with one fingerprint are
    gone on from once. Of steps that commute one order is tried: what an earlier branch has tried sleeps on
    the later ones until something comes that it does not commute with (P. Godefroid, "Partial-Order Methods
    for the Verification of Concurrent Systems", 1996, chapter 5).
    """

    def __init__(self, scenario: Scenario, parts: Parts = PRODUCT) -> None:
        self.paths = 0
        self.ends = 0
        self.found: Counterexample | None = None
        self._scenario = scenario
        self._parts = parts
        self._asleep: dict[int, frozenset[Step]] = {}
        """By state, the steps that are not tried from it."""
        self._branches: list[tuple[tuple[Step, ...], frozenset[Step]]] = [((), frozenset())]

    @property
    def states(self) -> int:
        """How many states were seen."""
        return len(self._asleep)

    def run(self, max_paths: int = 10**9) -> Counterexample | None:
        """Return the first counterexample, or None if there is none."""
        with self._scenario.in_force(), self._parts.at_work():
            while self._branches and not self.found and self.paths < max_paths:
                self.paths += 1
                self._follow(*self._branches.pop())
        return self.found

    def _follow(self, beginning: tuple[Step, ...], asleep: frozenset[Step]) -> None:
        """Walk a path, and on from its end until there is nothing new; note where it could branch off."""
        path = list(beginning)
        world = World(self._scenario, self._parts)
        try:
            for step in path:
                world.do(step)
            while True:
                world.check()
                branches = self._branch(world, asleep)
                if not branches:
                    return
                (step, asleep), *others = branches
                self._branches += [((*path, other), sleepers) for other, sleepers in reversed(others)]
                path.append(step)
                world.do(step)
        except Violation as violation:
            self.found = Counterexample(tuple(path), str(violation))
        finally:
            world.close()

    def _branch(self, world: World, asleep: frozenset[Step]) -> list[tuple[Step, frozenset[Step]]]:
        """Return the steps to try from here, and for each what sleeps after it."""
        state = hash(world.fingerprint())
        steps = world.steps()
        if not steps:
            self.ends += 1
            world.check_end()
        before = self._asleep.get(state)
        if before is None:
            wanted = [step for step in steps if step not in asleep]
        else:
            wanted = [step for step in steps if step in before and step not in asleep]
            asleep &= before
        self._asleep[state] = asleep
        branches = []
        for step in wanted:
            branches.append((step, frozenset(each for each in asleep if each.commutes_with(step))))
            asleep |= {step}
        return branches


def shrink(scenario: Scenario, parts: Parts, found: Counterexample) -> Counterexample:
    """Return a counterexample from which no step can be left out; what cannot happen then is passed over."""
    steps = list(found.steps)
    place = 0
    with scenario.in_force(), parts.at_work():
        while place < len(steps):
            shorter = _retry(scenario, parts, [*steps[:place], *steps[place + 1 :]])
            if shorter is not None and len(shorter.steps) < len(steps):
                steps, found, place = list(shorter.steps), shorter, 0
            else:
                place += 1
    return found


def _retry(scenario: Scenario, parts: Parts, steps: list[Step]) -> Counterexample | None:
    world = World(scenario, parts)
    taken: list[Step] = []
    try:
        for step in steps:
            if step in world.steps():
                taken.append(step)
                world.do(step)
                world.check()
        if not world.steps():
            world.check_end()
    except Violation as violation:
        return Counterexample(tuple(taken), str(violation))
    finally:
        world.close()
    return None
