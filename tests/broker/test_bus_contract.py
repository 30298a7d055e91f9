"""The brokers keep the contract that the simulated bus keeps."""

from collections.abc import Awaitable, Callable

import pytest

from stream_infer.bus.connection import Connection
from stream_infer.bus.offsets import Committed, CommittedOffsets
from stream_infer.bus.sending import BATCH_BYTES
from stream_infer.bus.sessions import start_session
from stream_infer.bus.transactions import Session
from stream_infer.schemas import Partition
from tests.broker.conftest import MakeTopic
from tests.broker.probes import read_values
from tests.contract.bus_contract import CHECKS, Bus


class Real:
    """A broker as the contract sees it."""

    def __init__(
        self, connection: Connection, offsets: CommittedOffsets, group: str, topics: tuple[str, str]
    ) -> None:
        self._connection = connection
        self._offsets = offsets
        self.group = group
        self.partition, self.topic = Partition(topics[0], 0), topics[1]

    async def start(self) -> Session:
        """Start a session."""
        identity = f"{self.group}.{self.partition.topic}.0"
        return await start_session(self._connection, transactional_id=identity, batch_bytes=BATCH_BYTES)

    async def committed(self) -> Committed:
        """Read the position."""
        return (await self._offsets.read([self.partition]))[self.partition]

    async def values(self) -> list[bytes | None]:
        """Read the output."""
        return await read_values(self._connection, self.topic)


@pytest.mark.parametrize("check", CHECKS)
async def test_contract(
    check: Callable[[Bus], Awaitable[None]], connection: Connection, make_topic: MakeTopic, group: str
) -> None:
    topics = (await make_topic(), await make_topic())
    async with CommittedOffsets(connection, group) as offsets:
        await check(Real(connection, offsets, group, topics))
