"""What a broker does not allow ends the work with its name; what may pass is said once and waited for."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
from aiokafka.errors import (
    ClusterAuthorizationFailedError,
    GroupAuthorizationFailedError,
    KafkaError,
    NodeNotReadyError,
    TopicAuthorizationFailedError,
    TransactionalIdAuthorizationFailed,
)
from structlog.testing import capture_logs

from stream_infer.bus.connection import REACH_BACKOFF, bus_error, connect
from stream_infer.bus.follower import MAX_PAUSE, TopicFollower
from stream_infer.client import Client, ClientRequest
from stream_infer.config import KafkaSettings
from stream_infer.errors import AccessRefusedError, BusError
from stream_infer.schemas import ClassifyBody


@pytest.mark.parametrize(
    "kind",
    [
        ClusterAuthorizationFailedError,
        GroupAuthorizationFailedError,
        TopicAuthorizationFailedError,
        TransactionalIdAuthorizationFailed,
    ],
)
def test_a_refusal_names_what_is_refused_also_behind_another_error(kind: type[KafkaError]) -> None:
    wrapped = KafkaError("the sender ended")
    wrapped.__cause__ = kind("orders")

    for error in (kind("orders"), wrapped):
        found = bus_error("cannot write", error)
        assert isinstance(found, AccessRefusedError)
        assert str(found).startswith("cannot write: access is refused: ")
        assert "orders" in str(found)


def test_what_may_pass_is_no_refusal() -> None:
    assert BusError is type(bus_error("cannot write", NodeNotReadyError()))


class ScriptedConsumer:
    """Answers each request for records with an error as told, and then with nothing."""

    def __init__(self, errors: Sequence[Exception]) -> None:
        self._errors = list(errors)

    async def getmany(self, **_: Any) -> dict[Any, Any]:
        """Raise the next error, if one is left."""
        if self._errors:
            raise self._errors.pop(0)
        return {}


def following(*errors: Exception) -> TopicFollower:
    """Return a follower whose consumer answers so."""
    made = TopicFollower(connect(KafkaSettings()), ["orders"])
    made._consumer = ScriptedConsumer(errors)
    return made


async def test_a_follower_that_may_not_read_says_so_and_ends() -> None:
    with pytest.raises(AccessRefusedError, match="cannot follow orders: access is refused"):
        await following(TopicAuthorizationFailedError({"orders"}))._next()


async def test_a_follower_waits_longer_each_time_and_says_the_same_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    waited: list[float] = []

    async def wait(seconds: float) -> None:
        waited.append(seconds)

    monkeypatch.setattr("asyncio.sleep", wait)
    broken = following(*[NodeNotReadyError("one")] * 8, NodeNotReadyError("two"))

    with capture_logs() as logs:
        for _ in range(9):
            assert [] == await broken._next()
        assert [] == await broken._next()

    assert ["one", "two"] == [line["error"].split(": ")[-1] for line in logs]
    assert [0.2, 0.4, 0.8, 1.6, 3.2] == pytest.approx(waited[:5])
    assert [MAX_PAUSE] * 4 == waited[5:]
    assert REACH_BACKOFF == broken._pause


async def test_a_client_that_may_not_read_tells_all_who_ask() -> None:
    client = Client("127.0.0.1:1")
    client._follower = following(TopicAuthorizationFailedError({"results"}))
    client._follower.caught_up.set()
    waiting = client._register(ClientRequest(ClassifyBody("text"))).outcome

    await asyncio.wait_for(client._receive(), 5.0)

    with pytest.raises(AccessRefusedError, match="access is refused"):
        await waiting
    with pytest.raises(AccessRefusedError, match="access is refused"):
        await client.classify("text")
