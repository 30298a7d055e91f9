"""Topics that are written to: known, about to come, hidden, and gone."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from aiokafka.errors import TopicAuthorizationFailedError

from stream_infer.bus import presence
from stream_infer.bus.presence import partition_counts, while_there
from stream_infer.errors import BusError

Known = dict[str, set[int]]


class Client:
    """aiokafka's client as far as topics go: each look at the broker brings the next of what it says."""

    def __init__(self, *said: Known | None, known: Known | None = None, hidden: str = "") -> None:
        self.cluster = self
        self.unauthorized_topics = {hidden}
        self.looks = 0
        self._said = list(said) or [{}]
        self._known = known or {}

    def partitions_for_topic(self, topic: str) -> set[int] | None:
        """Return what is known."""
        return self._known.get(topic)

    def add_topic(self, topic: str) -> None:
        """Look for it from now on."""

    def force_metadata_update(self) -> asyncio.Future[bool]:
        """Look; None is a broker out of reach. What was said last is said again."""
        self.looks += 1
        said = self._said.pop(0) if len(self._said) > 1 else self._said[0]
        self._known = self._known if said is None else said
        found = asyncio.Future[bool]()
        found.set_result(said is not None)
        return found


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(presence, "ABSENCE_SECONDS", 0.01)
    monkeypatch.setattr(presence, "LOOK_SECONDS", 0.01)
    monkeypatch.setattr(presence, "REACH_BACKOFF", 0.004)


async def test_known_topics_are_counted_without_a_look() -> None:
    client: Any = Client(known={"a": {0, 1}, "b": {0}})

    assert {"a": 2, "b": 1} == await partition_counts(client, ["a", "b"])
    assert 0 == client.looks


async def test_a_broker_out_of_reach_is_waited_for() -> None:
    """However long it is away, that says nothing about topics."""
    client: Any = Client(*[None] * 10, {}, {"a": {0}})

    assert {"a": 1} == await partition_counts(client, ["a"])


async def test_a_topic_that_does_not_come_is_named() -> None:
    client: Any = Client(*[{}] * 50, {"a": {0}})

    with pytest.raises(BusError, match=r"no such topic.*: a$"):
        await partition_counts(client, ["a"])
    assert 1 < client.looks < 50


async def test_a_hidden_topic_is_refused() -> None:
    client: Any = Client(hidden="a")

    with pytest.raises(TopicAuthorizationFailedError):
        await partition_counts(client, ["a"])


async def answer(seconds: float = 0.08) -> int:
    """Come with an answer after a while."""
    await asyncio.sleep(seconds)
    return 7


async def test_the_answer_is_passed_on() -> None:
    async def fail() -> int:
        raise OSError("refused")

    client: Any = Client()

    assert 7 == await while_there(client, [("gone", 0)], answer(0.0))
    with pytest.raises(OSError, match="refused"):
        await while_there(client, [("gone", 0)], fail())


@pytest.mark.parametrize("left", [{"b": {0}}, {"a": {0}, "b": {0}}])
async def test_what_is_sent_to_what_is_gone_is_given_up(left: Known) -> None:
    """The topic, or the partition of it, though it was known when it was sent."""
    client: Any = Client(left, known={"a": {0, 3}, "b": {0}})

    with pytest.raises(BusError, match=r"any more: a$"):
        await while_there(client, [("a", 3), ("b", 0)], answer(60.0))


@pytest.mark.parametrize("said", [({}, {"a": {0}}), (None,), ({"a": {0}},)])
async def test_else_it_is_waited_for(said: tuple[Known | None, ...]) -> None:
    """It is back at the next look, or the broker is out of reach, or only slow."""
    client: Any = Client(*said, known={"a": {0}})

    assert 7 == await while_there(client, [("a", 0)], answer())
    assert client.looks > 3


async def test_whoever_gives_up_leaves_nothing_behind() -> None:
    ended = asyncio.Event()

    async def endless() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    client: Any = Client(known={"a": {0}})
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(while_there(client, [("a", 0)], endless()), 0.02)
    assert ended.is_set()
