"""The delay until a commit: nearly all are within it, and it follows what changes."""

import random

import pytest

from stream_infer.flow.delay import CommitDelay


def test_nothing_is_likely_before_anything_was_committed() -> None:
    assert 0.0 == CommitDelay().likely


def test_the_first_one_says_little() -> None:
    delay = CommitDelay()
    delay.observe(0.1)
    assert pytest.approx(0.3) == delay.likely


def test_nearly_all_are_within_it() -> None:
    delay, draw, within = CommitDelay(), random.Random(1), 0
    for number in range(1_100):
        seconds = draw.lognormvariate(-2.0, 0.4)
        within += number >= 100 and seconds <= delay.likely
        delay.observe(seconds)
    assert 950 <= within < 1_000


@pytest.mark.parametrize("seconds", [0.01, 1.0])
def test_it_follows_a_lasting_change(seconds: float) -> None:
    delay = CommitDelay()
    for value in [0.1] * 50 + [seconds] * 100:
        delay.observe(value)
    assert pytest.approx(seconds, rel=0.1) == delay.likely
