import pytest

from loadgen.scrape import TOKEN_VARIABLE, Change, as_dict, authorization, changes, parse, scrape

BEFORE = """
# HELP seconds Time.
# TYPE seconds histogram
seconds_bucket{stage="engine",le="+Inf"} 10.0
seconds_count{stage="engine"} 10.0
seconds_sum{stage="engine"} 5.0
# HELP results Results.
# TYPE results counter
results_total 7.0
results_created 1.0
# HELP held Held.
# TYPE held gauge
held 5.0
"""
AFTER = (
    BEFORE.replace("10.0", "30.0")
    .replace("} 5.0", "} 25.0")
    .replace("total 7.0", "total 9.0")
    .replace("held 5.0", "held 4.0")
)


def test_a_page_is_read_without_buckets_and_creation_times() -> None:
    expected = {
        'seconds_count{stage="engine"}': 10.0,
        'seconds_sum{stage="engine"}': 5.0,
        "results_total": 7.0,
        "held": 5.0,
    }

    assert expected == parse(BEFORE)


def test_changes_are_increases_and_means_over_the_run() -> None:
    expected = [Change("results_total", "", 2.0, None), Change("seconds", 'stage="engine"', 20.0, 1.0)]

    assert expected == changes(parse(BEFORE), parse(AFTER))


def test_what_appears_during_the_run_began_at_nothing() -> None:
    assert [Change("results_total", "", 3.0, None)] == changes({}, {"results_total": 3.0})


async def test_a_worker_that_cannot_be_asked_is_a_stated_fault() -> None:
    found = await scrape("nowhere")

    assert {} == found.samples
    assert "nowhere" in found.fault
    assert [] == as_dict("nowhere", found, found)["changes"]


def test_the_token_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(TOKEN_VARIABLE, raising=False)
    assert {} == authorization()
    monkeypatch.setenv(TOKEN_VARIABLE, "secret")
    assert {"Authorization": "Bearer secret"} == authorization()
