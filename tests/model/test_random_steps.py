"""Long runs of random steps: more records, more faults and more gaps than can be searched whole."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from stream_infer.schemas import Ordering
from tests.model.simulated_worker import PRODUCT
from tests.model.world import Scenario, World

KEYS = st.lists(st.sampled_from([None, b"a", b"b"]), min_size=1, max_size=5)
MANY = 1_000
MOST_STEPS_TO_THE_END = 5_000


class TwoProcesses(RuleBasedStateMachine):
    """Two processes and a partition that goes between them, in any order of steps."""

    @initialize(
        keys=KEYS,
        ordering=st.sampled_from(Ordering),
        fetches=st.integers(1, 4),
        room=st.sampled_from([7, 4096]),
    )
    def start(self, keys: list[bytes | None], ordering: Ordering, fetches: int, room: int) -> None:
        """Begin with a few records."""
        scenario = Scenario(
            keys,
            ordering,
            moves=MANY,
            failures=MANY,
            expiries=MANY,
            returns=MANY,
            fetches=fetches,
            max_metadata_bytes=room,
        )
        self.scenario = scenario
        with scenario.in_force(), PRODUCT.at_work():
            self.world = World(scenario)

    @rule(keys=KEYS, gap=st.integers(0, 2))
    def produce(self, keys: list[bytes | None], gap: int) -> None:
        """Append records."""
        self.world.produce(keys, gap)

    @rule(data=st.data(), steps=st.integers(1, 12))
    def go_on(self, data: st.DataObject, steps: int) -> None:
        """Let things arrive, come, be finished or be learned."""
        for _ in range(steps):
            self.take(data, faults=False)

    @rule(data=st.data())
    def go_wrong(self, data: st.DataObject) -> None:
        """Let a process crash, be overtaken or be asked to let go, or an answer be lost."""
        self.take(data, faults=True)

    def take(self, data: st.DataObject, *, faults: bool) -> None:
        """Take one of the steps that can be taken."""
        wrong = {"lose", "crash", "evict", "revoke", "expire"}
        steps = [step for step in self.world.steps() if (step.what in wrong) == faults]
        if steps:
            with self.scenario.in_force(), PRODUCT.at_work():
                self.world.do(data.draw(st.sampled_from(steps)))
            self.world.check()

    @precondition(lambda self: hasattr(self, "world"))
    @invariant()
    def promises_are_kept(self) -> None:
        """What counts as done is out, once, in order, and nothing else is."""
        self.world.check()

    def teardown(self) -> None:
        """Once nothing goes wrong any more, everything comes out."""
        if not hasattr(self, "world"):
            return
        self.world.let_nothing_go_wrong()
        with self.scenario.in_force(), PRODUCT.at_work():
            for _ in range(MOST_STEPS_TO_THE_END):
                steps = self.world.steps()
                if not steps:
                    break
                self.world.do(steps[0])
                self.world.check()
            assert not self.world.steps()
            self.world.check_end()
            self.world.close()


TestTwoProcesses = pytest.mark.slow(TwoProcesses.TestCase)
TestTwoProcesses.settings = settings(max_examples=100, stateful_step_count=30)
