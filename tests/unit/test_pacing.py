"""Asking again after empty answers: ever later, and soon again when there were records."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from stream_infer.bus import pacing


@pytest.fixture
def answers() -> Iterator[bool]:
    """What the broker says, one after the other: whether there were records."""
    return iter([False, False, False, False, False, False, True, False])


@pytest.mark.parametrize(("silence", "pause"), [(0.0, 0.002), (0.04, 0.002), (0.125, 0.00625), (60.0, 0.01)])
def test_a_pause_is_a_share_of_the_silence_within_limits(silence: float, pause: float) -> None:
    assert pause == pacing.pause_after(silence)


async def test_the_silence_begins_anew_with_records(
    monkeypatch: pytest.MonkeyPatch, answers: Iterator[bool]
) -> None:
    class FakeFetcher:
        """Stands where aiokafka's would; only its identity matters."""

    async def ask(*_: Any) -> bool:
        return next(answers)

    async def note(seconds: float) -> None:
        pauses.append(seconds)

    pauses: list[float] = []
    clock = iter(range(100))
    monkeypatch.setattr(pacing, "_ask", ask)
    monkeypatch.setattr(pacing, "AT_ONCE", 1.0)
    monkeypatch.setattr(pacing, "monotonic", lambda: next(clock) / 50)
    monkeypatch.setattr(asyncio, "sleep", note)
    fetcher = FakeFetcher()

    found = [await pacing._ask_and_pause(fetcher, None, 0, None) for _ in range(8)]

    assert [False] * 6 + [True, False] == found
    assert pytest.approx([0.002, 0.003, 0.005, 0.007, 0.009, 0.01, 0.002]) == pauses


async def test_a_fetch_that_is_cancelled_ends_quietly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also while it waits to ask a broker again that did not answer: who stops awaits it."""
    waiting = asyncio.Event()

    async def ask(*_: Any) -> bool:
        waiting.set()
        await asyncio.Event().wait()
        return True

    monkeypatch.setattr(pacing, "_ask", ask)
    fetching = asyncio.create_task(pacing._ask_and_pause(None, None, 0, None))
    await waiting.wait()
    fetching.cancel()

    assert await fetching is False
