"""Others' use of the cores is told from one's own."""

from collections.abc import Sequence
from typing import NamedTuple

import psutil
import pytest

from stream_infer.service import disturbance
from stream_infer.service.disturbance import OtherLoad, disturbs


class Times(NamedTuple):
    """Processor times, as psutil names them."""

    user: float
    system: float
    idle: float = 0.0
    iowait: float = 0.0


class FakeProcess:
    """A process that used so much, with children; None is one that has ended."""

    def __init__(self, used: float | None, children: Sequence["FakeProcess"] = ()) -> None:
        self._used = used
        self._children = list(children)

    def cpu_times(self) -> Times:
        """Half in user mode, half in the kernel."""
        if self._used is None:
            raise psutil.NoSuchProcess(1)
        return Times(self._used / 2, self._used / 2)

    def children(self, *, recursive: bool) -> list["FakeProcess"]:
        """All of them."""
        assert recursive
        return self._children


def see(monkeypatch: pytest.MonkeyPatch, now: float, machine: Times, own: FakeProcess) -> None:
    monkeypatch.setattr(disturbance, "monotonic", lambda: now)
    monkeypatch.setattr(psutil, "cpu_times", lambda: machine)
    monkeypatch.setattr(psutil, "Process", lambda: own)


def test_what_neither_this_process_nor_its_children_used_is_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 7 s that the machine was busy for 2 s, 4 were its own: others kept 1.5 cores busy."""
    see(monkeypatch, 10.0, Times(100.0, 50.0, 900.0, 7.0), FakeProcess(3.0, [FakeProcess(5.0)]))
    others = OtherLoad()
    children = [FakeProcess(6.0), FakeProcess(2.0), FakeProcess(None)]
    see(monkeypatch, 12.0, Times(104.0, 53.0, 950.0, 99.0), FakeProcess(4.0, children))

    assert 1.5 == others.cores()


def test_a_child_that_ends_is_not_counted_below_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    see(monkeypatch, 0.0, Times(10.0, 0.0), FakeProcess(1.0))
    others = OtherLoad()
    see(monkeypatch, 1.0, Times(10.0, 0.0), FakeProcess(2.0))

    assert 0.0 == others.cores()


def test_the_real_counters_are_read() -> None:
    assert isinstance(OtherLoad().cores(), float)


@pytest.mark.parametrize(
    ("other", "needed", "cores", "expected"),
    [(0.1, 2, 2, False), (0.5, 2, 2, True), (1.0, 1, 2, False), (60.0, 4, 64, False), (0.5, 4, 2, True)],
)
def test_load_disturbs_where_too_few_cores_are_left(
    other: float, needed: int, cores: int, *, expected: bool
) -> None:
    assert expected == disturbs(other, needed, cores)
