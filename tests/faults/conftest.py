"""What the tests of this folder share: a mark, for they run only where they are asked for."""

from __future__ import annotations

from pathlib import Path

import pytest

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark this folder's tests."""
    for item in items:
        if item.path.is_relative_to(HERE):
            item.add_marker(pytest.mark.faults)


@pytest.fixture
def broker_kind(request: pytest.FixtureRequest) -> str:
    """`embedded`, `kafka` or `kafka3`."""
    return str(request.config.getoption("--broker"))
