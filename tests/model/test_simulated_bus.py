"""The simulated bus keeps the contract that the brokers keep."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from stream_infer.bus.connection import connect
from stream_infer.bus.offsets import Committed
from stream_infer.bus.transactions import Session
from stream_infer.config import KafkaSettings
from stream_infer.schemas import Partition
from tests.contract.bus_contract import CHECKS, Bus
from tests.model.network import Network
from tests.model.simulated_bus import SimulatedBus, SimulatedPositions, SimulatedSessions


class PromptNetwork(Network):
    """Lets every request arrive as soon as someone may wait for it."""

    async def arrive(self) -> None:
        """Let all arrive, in turn, for ever."""
        while True:
            for name in list(self.requests):
                self.requests.pop(name).arrive()
            await asyncio.sleep(0)


class Simulated:
    """The simulated bus as the contract sees it."""

    partition, topic, group = Partition("input", 0), "output", "group"

    def __init__(self, network: Network) -> None:
        self._bus = SimulatedBus()
        self._sessions = SimulatedSessions(self._bus, network)
        self._positions = SimulatedPositions(self._bus, network)

    async def start(self) -> Session:
        """Start a session."""
        return await self._sessions.start(
            connect(KafkaSettings()), transactional_id="group.input.0", batch_bytes=1
        )

    async def committed(self) -> Committed:
        """Read the position."""
        return (await self._positions.read([self.partition]))[self.partition]

    async def values(self) -> list[bytes | None]:
        """Read the output."""
        return [record.value for record in self._bus.read_committed()]


@pytest.mark.parametrize("check", CHECKS)
async def test_contract(check: Callable[[Bus], Awaitable[None]]) -> None:
    network = PromptNetwork(asyncio.get_running_loop())
    arriving = asyncio.create_task(network.arrive())
    await check(Simulated(network))
    arriving.cancel()
