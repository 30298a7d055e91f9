"""The search that finds nothing wrong with the product finds what is wrong with each broken variant."""

import pytest

from tests.model.exploration import Explorer, shrink
from tests.model.mutants import MUTANTS
from tests.model.scenarios import SCENARIOS


@pytest.mark.slow
@pytest.mark.parametrize("name", MUTANTS)
def test_a_broken_rule_is_caught(name: str) -> None:
    scenario, parts = MUTANTS[name]

    found = Explorer(SCENARIOS[scenario], parts).run()

    assert found is not None, f"no order of steps shows that {name}"
    print(f"{name}:\n{shrink(SCENARIOS[scenario], parts, found)}")  # noqa: T201 - `pytest -s` shows them
