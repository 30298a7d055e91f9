"""Memory that is held but not used goes back to the system."""

import asyncio
import os
from pathlib import Path

import pytest

from stream_infer.heap import heap_trimmer
from stream_infer.service.memory import keep_trimmed

BUFFER = 8_192
BUFFERS = 8_192


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_what_is_free_between_buffers_in_use_goes_back() -> None:
    trim = heap_trimmer()
    assert trim is not None
    buffers = [bytes([number % 255 + 1]) * BUFFER for number in range(BUFFERS)]
    kept = buffers[::64]
    del buffers
    held = resident_bytes()

    trim(0)

    assert resident_bytes() < held - BUFFER * BUFFERS // 2
    assert len(kept) == BUFFERS // 64


async def test_it_is_done_again_and_again_until_cancelled() -> None:
    times: list[int] = []
    thrice = asyncio.Event()

    def trim(padding: int) -> int:
        times.append(padding)
        if len(times) == 3:
            thrice.set()
        return 1

    task = asyncio.create_task(keep_trimmed(trim, every=0.0))
    await thrice.wait()
    task.cancel()

    with pytest.raises(asyncio.CancelledError):
        await task
    assert [0, 0, 0] == times[:3]


async def test_another_c_library_is_left_alone() -> None:
    await keep_trimmed(None, every=0.0)
