"""What a replica's process has at hand while it runs a batch."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import numpy as np
import pytest

from stream_infer.engine.replica import Replica
from stream_infer.engine.wire import Message
from stream_infer.errors import ReplicaDiedError
from stream_infer.schemas import Output, Tokens


class Child:
    """A process that answers when it is told to."""

    pid = 1

    def __init__(self) -> None:
        self.is_alive = True
        self.is_killed = False
        self.sent: list[str] = []
        self._asked: asyncio.Queue[int] = asyncio.Queue()
        self._answers: asyncio.Queue[str] = asyncio.Queue()

    def send(self, message: Message) -> None:
        """Note which model is asked for."""
        self.sent.append(message["model"])
        self._asked.put_nowait(message["number"])

    def answer(self, text: str) -> None:
        """Answer the first batch that has no answer yet, once it has come."""
        self._answers.put_nowait(text)

    def kill(self) -> None:
        """Be dead."""
        self.is_alive, self.is_killed = False, True

    async def receive(self) -> Message:
        """Wait for the answer."""
        text = await self._answers.get()
        return {"number": await self._asked.get(), "outputs": [[None, "", text, False]]}


async def run(replica: Replica, model: str) -> list[Output]:
    return await replica.run(model, [Tokens(np.array([1], np.int32))], [""], expected=60.0)


async def test_one_batch_more_than_runs_is_with_the_process() -> None:
    replica, child = Replica([], threads=1), Child()
    replica._child = cast("Any", child)
    async with asyncio.TaskGroup() as group:
        calls = [group.create_task(run(replica, model)) for model in ("first", "second", "third")]
        await _settled()
        assert ["first", "second"] == child.sent
        child.answer("one")
        await _settled()
        assert ["first", "second", "third"] == child.sent
        child.answer("two")
        child.answer("three")

    assert ["one", "two", "three"] == [output.text for call in calls for output in call.result()]


async def test_no_batch_overtakes_one_that_was_not_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    """The second came while there was no process; what follows the first at once goes behind it."""
    replica, child = Replica([], threads=1), Child()
    started = asyncio.Event()

    async def start() -> Child:
        await started.wait()
        return child

    async def first_and_third() -> list[Output]:
        return [*await run(replica, "first"), *await run(replica, "third")]

    monkeypatch.setattr(replica, "_replace", start)
    async with asyncio.TaskGroup() as group:
        calls = [group.create_task(work) for work in (first_and_third(), run(replica, "second"))]
        await _settled()
        started.set()
        for model in ("first", "second", "third"):
            child.answer(model)

    assert ["first", "second", "third"] == child.sent
    assert ["first", "third", "second"] == [output.text for call in calls for output in call.result()]


async def test_an_answer_to_another_batch_is_no_answer() -> None:
    replica, child = Replica([], threads=1), Child()
    replica._child = cast("Any", child)
    child.send({"number": -1, "model": "of somebody else"})
    child.answer("theirs")

    with pytest.raises(ReplicaDiedError, match="model: the replica answered batch -1 for 0"):
        await run(replica, "model")
    assert replica.pid is None


async def _settled() -> None:
    for _ in range(10):
        await asyncio.sleep(0)
