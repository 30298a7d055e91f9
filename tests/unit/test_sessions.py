"""What a session of a transactional id makes of its producer's errors."""

import asyncio
from typing import Any

import pytest
from aiokafka.errors import (
    IllegalOperation,
    InvalidProducerEpoch,
    KafkaConnectionError,
    ProducerFenced,
    TopicAuthorizationFailedError,
)

from stream_infer.bus.connection import bus_error
from stream_infer.bus.sessions import ProducerSession
from stream_infer.errors import AccessRefusedError, BusError, PartitionLostError


class EndedSender:
    """A sender whose task has ended: as told, or because it was cancelled."""

    def __init__(self, error: Exception | None) -> None:
        self.sender_task: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if error is None:
            self.sender_task.cancel()
        else:
            self.sender_task.set_exception(error)
            self.sender_task.exception()  # or asyncio would report it where nobody asks for it


class FailingProducer:
    """Raises where a transaction would be committed."""

    def __init__(self, error: BaseException, ending: Exception | None = None) -> None:
        self._error = error
        self._sender = EndedSender(ending)

    async def commit_transaction(self) -> None:
        """Raise."""
        raise self._error


def session(error: BaseException, ending: Exception | None = None) -> ProducerSession:
    producer: Any = FailingProducer(error, ending)
    return ProducerSession(producer, "group.topic.0")


@pytest.mark.parametrize("fence", [ProducerFenced(), InvalidProducerEpoch()])
async def test_a_fence_is_seen_in_the_error_or_in_what_ended_the_sender(fence: Exception) -> None:
    for fenced in (session(fence), session(IllegalOperation(), fence), session(AssertionError(), fence)):
        with pytest.raises(PartitionLostError, match=r"group\.topic\.0"):
            await fenced.commit()


@pytest.mark.parametrize("ending", [None, TopicAuthorizationFailedError("topic")])
async def test_a_refusal_is_told_also_where_it_is_what_ended_the_sender(ending: Exception | None) -> None:
    """It would be tried again, in vain, if only what came of it were known."""
    error = TopicAuthorizationFailedError("topic") if ending is None else IllegalOperation("no transaction")

    with pytest.raises(BusError) as raised:
        await session(error, ending).commit()

    assert isinstance(bus_error("it was aborted", raised.value), AccessRefusedError)


async def test_other_failures_are_no_fence() -> None:
    with pytest.raises(BusError, match="broke") as raised:
        await session(KafkaConnectionError("the connection broke")).commit()
    assert not isinstance(raised.value, PartitionLostError)


async def test_a_cancelled_commit_stays_cancelled_though_the_producer_was_fenced() -> None:
    """Or the task of a partition that is given away would go on, and take the partition back."""
    with pytest.raises(asyncio.CancelledError):
        await session(asyncio.CancelledError(), ProducerFenced()).commit()
