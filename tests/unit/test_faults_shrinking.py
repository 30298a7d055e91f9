"""Shrinking a schedule that fails."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from tests.faults.shrinking import shrink


class Culprits:
    """Fails where all culprits are there, and counts how often it was asked."""

    def __init__(self, culprits: set[int]) -> None:
        self.asked = 0
        self._culprits = culprits

    async def fails(self, part: Sequence[int]) -> bool:
        """Return whether every culprit is in the part."""
        self.asked += 1
        return self._culprits <= set(part)


@given(st.data(), st.integers(1, 60))
async def test_what_is_left_are_the_culprits_in_their_order(data: st.DataObject, size: int) -> None:
    schedule = list(range(size))
    culprits = data.draw(st.sets(st.sampled_from(schedule), min_size=1, max_size=4))

    assert sorted(culprits) == await shrink(schedule, Culprits(culprits).fails)


async def test_one_culprit_among_many_is_found_by_halving() -> None:
    culprits = Culprits({700})

    assert [700] == await shrink(range(1_000), culprits.fails)
    assert culprits.asked <= 20


async def test_of_several_ways_to_fail_one_is_left() -> None:
    async def fails(part: Sequence[str]) -> bool:
        return "a" in part or {"b", "c"} <= set(part)

    assert await shrink("xbyazc", fails) in (["a"], ["b", "c"])
