"""Every order of what two processes do on one partition, up to a bound, keeps what is promised."""

from collections.abc import Callable

import pytest

from tests.model.exploration import Explorer
from tests.model.scenarios import SCENARIOS

LEAST_STATES = 200
"""A search that sees fewer has stopped looking."""


@pytest.mark.slow
@pytest.mark.parametrize("name", SCENARIOS)
def test_no_order_of_steps_breaks_a_promise(
    name: str, record_property: Callable[[str, object], None]
) -> None:
    explorer = Explorer(SCENARIOS[name])

    found = explorer.run()

    record_property("states", explorer.states)
    record_property("paths", explorer.paths)
    assert found is None, f"\n{found}"
    assert explorer.ends > 0
    assert explorer.states >= LEAST_STATES
