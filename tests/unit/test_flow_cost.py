"""Predicted run times: sane before data, right after it, steady under outliers, quick to follow."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream_infer.flow.cost import CostModel

SIZES = [16, 2048, 400, 900, 64, 1500, 128, 700]


def trained(overhead: float, per_token: float, runs: int = 40) -> CostModel:
    cost = CostModel()
    for run in range(runs):
        tokens = SIZES[run % len(SIZES)]
        cost.observe(tokens, overhead + per_token * tokens)
    return cost


def test_a_guess_stands_in_for_data() -> None:
    cost = CostModel(overhead=0.01, per_token=0.001)
    assert pytest.approx(0.11) == cost.predict(100)


def test_overhead_and_slope_are_found() -> None:
    cost = trained(0.010, 0.0001)
    assert pytest.approx(0.020, rel=0.15) == cost.predict(100)
    assert pytest.approx(0.110, rel=0.15) == cost.predict(1000)


def test_batches_of_one_size_still_predict_that_size() -> None:
    cost = CostModel()
    for _ in range(40):
        cost.observe(512, 0.1)
    assert pytest.approx(0.1, rel=0.1) == cost.predict(512)
    assert cost.predict(1) < 0.1 < cost.predict(2048)


def test_a_wavering_time_is_predicted_rather_too_long() -> None:
    """A batch that leaves at its deadline minus the average would be late every other time."""
    cost = CostModel()
    for run in range(40):
        cost.observe(SIZES[run % len(SIZES)], 0.2 if run % 2 else 0.1)
    assert 0.17 < cost.predict(800) < 0.25


def test_one_hiccup_hardly_moves_the_prediction() -> None:
    cost = trained(0.010, 0.0001)
    cost.observe(1000, 60.0)
    assert cost.predict(1000) < 0.2


def test_a_lasting_change_is_followed() -> None:
    cost = trained(0.010, 0.0001)
    for _ in range(10):
        for tokens in SIZES:
            cost.observe(tokens, 20 * (0.010 + 0.0001 * tokens))
    assert pytest.approx(2.2, rel=0.3) == cost.predict(1000)


def test_a_time_that_runs_to_nothing_is_no_error() -> None:
    cost = CostModel()
    for _ in range(20):
        cost.observe(0, 5e-324)
        cost.observe(99_999, 5e-324)
    assert cost.tokens_within(1.0) > 0


@settings(max_examples=60)
@given(
    runs=st.lists(st.tuples(st.integers(0, 100_000), st.floats(0, 1000)), max_size=40),
    tokens=st.integers(0, 100_000),
    seconds=st.floats(0, 100),
)
def test_predictions_are_never_negative_and_grow_with_tokens(
    runs: list[tuple[int, float]], tokens: int, seconds: float
) -> None:
    cost = CostModel()
    for size, took in runs:
        cost.observe(size, took)
    assert 0.0 <= cost.predict(tokens) <= cost.predict(tokens + 1)
    room = cost.tokens_within(seconds)
    assert room >= 0
    if 0 < room < 1e12:
        assert cost.predict(room) <= seconds + 1e-9
