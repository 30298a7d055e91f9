"""Partitions that the group gives to a worker that is about to end by an error of its own."""

from __future__ import annotations

import asyncio
import gc
from typing import Any

import pytest

from stream_infer.bus.connection import connect
from stream_infer.config import KafkaSettings, Settings
from stream_infer.schemas import Partition
from stream_infer.service.worker import Worker


class Owner:
    """Owns for ever."""

    async def run(self) -> None:
        """Wait."""
        await asyncio.Event().wait()


async def test_partitions_are_not_taken_while_something_else_has_failed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    worker: Any = Worker(Settings(), connect(KafkaSettings(), "127.0.0.1:1"))
    monkeypatch.setattr(worker, "_make_owner", lambda _: Owner())

    async def fail() -> None:
        raise OSError("the cache's topic")

    async def serve() -> None:
        async with asyncio.TaskGroup() as worker._background:
            worker._background.create_task(fail())
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                await worker._on_assigned([Partition("requests.classify", 0)])
                raise

    with pytest.raises(ExceptionGroup) as raised:
        await serve()
    gc.collect()  # a coroutine that nobody awaits would be told now

    assert ["the cache's topic"] == [str(error) for error in raised.value.exceptions]
    assert {} == worker._owners == worker._tasks
