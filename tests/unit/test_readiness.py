"""A worker is ready only while it does its job, and says what is missing."""

from __future__ import annotations

from stream_infer.service.readiness import STALL_SECONDS, WorkerState


def working() -> WorkerState:
    return WorkerState(is_loaded=True, is_replayed=True, progressed_at=100.0, heard_at=100.0)


def test_a_worker_with_open_partitions_that_moves_is_ready() -> None:
    assert working().readiness([("requests/0", True)], now=101.0).is_ready


def test_every_missing_thing_is_named() -> None:
    readiness = WorkerState(is_working=False, is_stopping=True).readiness([("requests/0", False)], now=1.0)

    assert not readiness.is_ready
    assert (
        "the worker is stopping",
        "models are loading",
        "every batch fails",
        "passages are being replayed",
        "partition requests/0 is being taken over",
    ) == readiness.reasons


def test_a_worker_without_partitions_is_not_ready() -> None:
    assert ("no partitions are assigned",) == working().readiness([], now=101.0).reasons


def test_a_standstill_is_told_from_silence() -> None:
    state = working()
    later = 100.0 + STALL_SECONDS + 1.0
    state.heard_at = later

    assert ("records wait, but positions do not move",) == state.readiness(
        [("requests/0", True)], later
    ).reasons
    state.progressed_at, state.heard_at = later, 100.0
    assert ("the broker has not answered",) == state.readiness([("requests/0", True)], later).reasons


def test_only_commits_move_a_busy_worker() -> None:
    """Records that are fetched and never committed are no progress."""
    state = working()
    state.note(5, 200.0, is_idle=False)
    state.note(5, 300.0, is_idle=False)

    assert 200.0 == state.progressed_at
    state.note(5, 400.0, is_idle=True)
    assert 400.0 == state.progressed_at
