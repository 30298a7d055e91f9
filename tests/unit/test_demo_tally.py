"""The demo's balance sheet cannot say "balanced" when it is not."""

from stream_infer.demo.tally import Tally
from stream_infer.schemas import Task


def test_every_event_with_one_outcome_balances() -> None:
    tally = Tally()
    tally.sent("a", Task.CLASSIFY, at=1.0)
    tally.sent("b", Task.ANSWER, at=1.0)
    tally.came_back("a", at=1.25, is_result=True)
    tally.came_back("b", at=2.0, is_result=False)

    assert tally.is_balanced
    assert {
        "in": 2,
        "results": 1,
        "dead_letters": 1,
        "lost": 0,
        "duplicated": 0,
        "seconds": 3.0,
        "tasks": {
            "classify": {"in": 1, "results": 1, "dead_letters": 0, "p50_ms": 250.0, "p99_ms": 250.0},
            "translate": {"in": 0, "results": 0, "dead_letters": 0, "p50_ms": 0.0, "p99_ms": 0.0},
            "answer": {"in": 1, "results": 0, "dead_letters": 1, "p50_ms": 1000.0, "p99_ms": 1000.0},
        },
    } == tally.summary(seconds=3.0)


def test_a_missing_outcome_is_lost() -> None:
    tally = Tally()
    tally.sent("a", Task.CLASSIFY, at=0.0)

    assert (1, False) == (tally.lost, tally.is_balanced)


def test_a_second_outcome_is_a_duplicate_and_counts_once() -> None:
    tally = Tally()
    tally.sent("a", Task.CLASSIFY, at=0.0)
    tally.came_back("a", at=1.0, is_result=True)
    tally.came_back("a", at=2.0, is_result=False)

    assert (1, False) == (tally.duplicated, tally.is_balanced)
    assert 1 == tally.summary(0.0)["results"]


def test_an_outcome_of_no_event_is_not_balanced() -> None:
    tally = Tally()
    tally.came_back("ghost", at=1.0, is_result=True)

    assert not tally.is_balanced
