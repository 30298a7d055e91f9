"""An agent commits by number exactly what its handler made durable."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import faust

from stream_infer.schemas import Record
from stream_infer.streams.agent import Agent

GENERATION = 3


@dataclass
class FakeHandler:
    """Writes down what is asked of it; fails on the offset that it is told to."""

    log: list[Any]
    poison: int = -1

    async def handle(self, record: Record) -> None:
        """Take a record."""
        if record.offset == self.poison:
            raise RuntimeError("poison")
        self.log.append(record.offset)

    async def checkpoint(self) -> None:
        """Say so."""
        self.log.append("checkpoint")

    def forget(self) -> None:
        """Say so."""
        self.log.append("forget")


class FakeStream:
    """Gives messages as Faust does; `channel.empty` says whether more of them wait."""

    def __init__(self, messages: Sequence[Any]) -> None:
        self.channel = self
        self._messages = list(messages)

    def empty(self) -> bool:
        """Whether no message is left."""
        return not self._messages

    async def events(self) -> AsyncIterator[Any]:
        """Give the messages."""
        while self._messages:
            yield SimpleNamespace(message=self._messages.pop(0))


class Rig:
    """An agent with everything around it replaced."""

    def __init__(self, *, max_batch: int = 10, poison: int = -1) -> None:
        self.log: list[Any] = []
        self.failures: list[Exception] = []
        app: Any = faust.App("unit", broker="aiokafka://unused", autodiscover=False)
        app.consumer_generation_id = GENERATION
        app.consumer = SimpleNamespace(_commit=self._commit)
        handler = FakeHandler(self.log, poison)
        limits = {"max_batch": max_batch, "max_waiting": max_batch}
        self.agent = Agent(app, "unit", ["topic"], handler, fail=self.failures.append, **limits)

    async def take(self, *messages: Any) -> None:
        """Let the agent take the messages, until it has taken all or will take no more."""
        consuming = asyncio.ensure_future(self.agent._consume(FakeStream(messages)))
        await asyncio.sleep(0)
        for _ in range(20):
            await asyncio.sleep(0)
        consuming.cancel()
        await asyncio.gather(consuming, return_exceptions=True)

    async def _commit(self, offsets: dict[Any, int]) -> None:
        self.log.append(dict(offsets))


def message(offset: int, *, partition: int = 0, generation: int = GENERATION) -> Any:
    return SimpleNamespace(
        topic="topic",
        partition=partition,
        tp=partition,
        offset=offset,
        timestamp=0.0,
        key=None,
        value=b"",
        headers=None,
        generation_id=generation,
    )


async def test_what_waits_is_committed_together_once_it_is_durable() -> None:
    rig = Rig()
    await rig.take(message(4), message(5), message(7, partition=1))

    assert [4, 5, 7, "checkpoint", {0: 6, 1: 8}] == rig.log


async def test_a_full_batch_does_not_wait_for_more() -> None:
    rig = Rig(max_batch=2)
    await rig.take(message(0), message(1), message(2))

    assert [0, 1, "checkpoint", {0: 2}, 2, "checkpoint", {0: 3}] == rig.log


async def test_a_record_that_comes_twice_is_handled_once() -> None:
    rig = Rig()
    await rig.take(message(0), message(1), message(0), message(1))

    assert [0, 1, "checkpoint", {0: 2}] == rig.log


async def test_a_record_from_before_a_rebalance_is_left_to_its_new_owner() -> None:
    rig = Rig()
    await rig.take(message(0, generation=GENERATION - 1))

    assert [] == rig.log


async def test_after_a_failure_nothing_is_taken_or_committed() -> None:
    rig = Rig(poison=1)
    await rig.take(message(0), message(1), message(2))

    assert [0] == rig.log
    assert ["poison"] == [str(error) for error in rig.failures]


async def test_partitions_that_go_take_what_is_not_durable_with_them() -> None:
    """The new owner reads it again; should the partition come back, so does this one."""
    rig = Rig(poison=1)
    await rig.take(message(0), message(1))

    await rig.agent.hand_over()

    assert [0, "forget"] == rig.log
    assert not rig.agent._uncommitted


async def test_a_drained_agent_takes_nothing() -> None:
    rig = Rig()
    await rig.agent.drain()
    await rig.take(message(0))

    assert [] == rig.log
