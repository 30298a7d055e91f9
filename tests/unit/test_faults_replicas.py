"""Whom a fault of replicas strikes: one that is there, also where faults overlap."""

from __future__ import annotations

from typing import Any

import pytest

from tests.faults import scene
from tests.faults.replica_faults import NURSERY, process_of
from tests.faults.scene import NotRealError


class Starting:
    """A worker that has more of its processes, and answers, the more often one looks."""

    name = "worker-1"

    def __init__(self, *looks: tuple[float, list[str]]) -> None:
        self._looks = list(looks)

    async def metric(self, name: str) -> float:
        """Return what its replica holds; before the processes, which are looked at afterwards."""
        assert "replica_resident_bytes" == name
        return self._looks[0][0]

    @property
    def processes(self) -> list[str]:
        """What there is at this look."""
        return (self._looks.pop(0) if len(self._looks) > 1 else self._looks[0])[1]


@pytest.fixture(autouse=True)
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scene, "_WAIT_PAUSE", 0.0)


@pytest.mark.parametrize(("place", "found"), [(2, "replica"), (NURSERY, "nursery")])
async def test_a_replica_that_is_on_its_way_is_waited_for(place: int, found: str) -> None:
    loading, loaded = ["own", "loading", "loading"], ["own", "nursery", "replica"]
    worker: Any = Starting((0.0, ["own"]), (0.0, loading), (1.0, ["own"]), (1.0, loaded))

    assert found == await process_of(worker, place)


async def test_without_one_nothing_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    worker: Any = Starting((1.0, ["own"]))
    monkeypatch.setattr("tests.faults.replica_faults.REPLICA_S", 0.01)

    with pytest.raises(NotRealError, match="worker-1 having a replica"):
        await process_of(worker)
