"""What a worker held is kept look by look, and its memory's slope is told from the second half."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadgen import scrape
from loadgen.gauges import Look, Memory, judge_memory, pick
from loadgen.scrape import Scrape, as_dict, watching

MIB = 2**20


def test_labels_are_added_up_and_of_ages_the_greatest_is_kept() -> None:
    samples = {
        'w_lag_records{stream="a"}': 3.0,
        'w_lag_records{stream="b"}': 4.0,
        'w_lag_seconds{stream="a"}': 0.5,
        'w_lag_seconds{stream="b"}': 2.0,
        "process_resident_memory_bytes": 7.0,
        "w_replica_resident_bytes": 9.0,
        "w_cache_bytes": 11.0,
        'w_results_total{stream="a"}': 13.0,
    }
    expected = {
        "w_lag_records": 7.0,
        "w_lag_seconds": 2.0,
        "process_resident_memory_bytes": 7.0,
        "w_replica_resident_bytes": 9.0,
    }

    assert expected == pick(samples)


@given(st.floats(-1e9, 1e9), st.integers(2, 50))
def test_a_steady_growth_is_found_whatever_the_first_half_was(growth: float, looks: int) -> None:
    """A worker that warms up takes memory at first."""
    seen = [Look(float(at), {"m_bytes": 5.0 * at * MIB}) for at in range(looks)]
    seen += [Look(float(at), {"m_bytes": 1e9 + growth * at / 3600}) for at in range(looks, 2 * looks)]

    (memory,) = judge_memory(seen).values()

    assert looks - 1 == memory.seconds
    assert pytest.approx(growth, rel=1e-3, abs=10.0) == memory.slope_bytes_per_hour


def test_flat_memory_has_no_slope() -> None:
    looks = [Look(float(at), {"m_bytes": 300.0 * MIB, "lag_records": 1.0}) for at in range(10)]

    assert {"m_bytes": Memory(4.0, 300.0 * MIB, 0.0)} == judge_memory(looks)


def test_a_look_without_an_answer_is_left_out() -> None:
    looks = [
        Look(0.0, {"m_bytes": 9.0}),
        Look(1.0, {"m_bytes": 1.0}),
        Look(2.0, {}),
        Look(3.0, {"m_bytes": 1.0}),
    ]

    assert {"m_bytes": Memory(0.0, 1.0, None)} == judge_memory(looks[1:])
    assert {"m_bytes": Memory(0.0, 1.0, None)} == judge_memory(looks)
    assert not judge_memory([Look(0.0, {})])
    assert not judge_memory([])


async def test_a_worker_is_looked_at_until_the_run_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that does not answer once is asked again."""
    answers = [Scrape({"lag_records": 1.0}), Scrape({}, "refused"), Scrape({"lag_records": 2.0})]
    is_done, urls = asyncio.Event(), []

    async def answer(url: str) -> Scrape:
        urls.append(url)
        if not answers:
            is_done.set()
            await asyncio.Event().wait()
        return answers.pop(0)

    monkeypatch.setattr(scrape, "scrape", answer)
    monkeypatch.setattr(scrape, "INTERVAL_SECONDS", 1e-6)
    async with watching("somewhere") as looks:
        await is_done.wait()

    assert ["somewhere"] * 4 == urls
    assert [{"lag_records": 1.0}, {}, {"lag_records": 2.0}] == [look.values for look in looks]
    assert [look.at for look in looks] == sorted(look.at for look in looks)
    kept = as_dict("somewhere", Scrape({}), Scrape({}), looks)["gauges"]
    assert {"at": looks[0].at, "values": {"lag_records": 1.0}} == kept[0]  # type: ignore[index] # what JSON holds


async def test_without_a_url_nobody_is_looked_at() -> None:
    async with watching(None) as looks:
        assert [] == looks
