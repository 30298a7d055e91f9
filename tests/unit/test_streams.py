from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
import torch

from stream_infer.engine.streams import Streams, deal


@pytest.mark.parametrize(
    ("places", "streams", "hands"),
    [
        ([], 2, []),
        ([4], 2, [[4]]),
        ([5, 3, 1, 0, 2], 2, [[5, 1, 2], [3, 0]]),
        ([5, 3], 3, [[5], [3]]),
        ([5, 3, 1], 1, [[5, 3, 1]]),
    ],
)
def test_places_are_dealt_like_cards(places: list[int], streams: int, hands: list[list[int]]) -> None:
    assert hands == deal(places, streams)


@pytest.fixture
def _two_cores() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(threads)


@pytest.mark.usefixtures("_two_cores")
def test_parts_run_side_by_side_on_a_core_each() -> None:
    """Both wait until the other has begun, so one after the other would never end."""
    both_begun = threading.Barrier(2, timeout=30)

    def decode(part: str) -> tuple[str, int, bool]:
        both_begun.wait()
        return part.upper(), torch.get_num_threads(), torch.is_inference_mode_enabled()

    streams = Streams()

    assert [("A", 1, True), ("B", 1, True)] == streams.run(decode, ["a", "b"])
    assert [("C", 1, True), ("D", 1, True)] == streams.run(decode, ["c", "d"])
    assert 2 == torch.get_num_threads()


@pytest.mark.usefixtures("_two_cores")
def test_a_part_alone_runs_where_it_is_asked_for() -> None:
    """On one core too: a single sentence's operations are too small to be shared."""

    def decode(_: str) -> tuple[int, bool, threading.Thread]:
        return torch.get_num_threads(), torch.is_inference_mode_enabled(), threading.current_thread()

    assert [(1, True, threading.current_thread())] == Streams().run(decode, ["a"])
    assert [] == Streams().run(decode, [])
    assert 2 == torch.get_num_threads()


@pytest.mark.usefixtures("_two_cores")
def test_an_error_is_raised_when_all_parts_have_ended() -> None:
    ended = []
    failed = threading.Event()

    def decode(part: str) -> None:
        if part == "bad":
            failed.set()
            raise ValueError(part)
        failed.wait(30)
        ended.append(part)

    with pytest.raises(ValueError, match="bad"):
        Streams().run(decode, ["bad", "good"])
    assert ["good"] == ended
    assert 2 == torch.get_num_threads()
