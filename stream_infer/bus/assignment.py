"""What the consumer group gives to this process and takes from it again."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection
from typing import Any

from aiokafka import ConsumerRebalanceListener, TopicPartition

from stream_infer.errors import BusError
from stream_infer.schemas import Partition

RebalanceCallback = Callable[[frozenset[Partition]], Awaitable[None]]


class Assignment(ConsumerRebalanceListener):  # type: ignore[misc] # aiokafka publishes no types
    """What the group gave to this process, and which of it flows.

    aiokafka only logs an error of a rebalance callback; here it is kept for `check` to raise.
    """

    def __init__(self, on_assigned: RebalanceCallback, on_revoked: RebalanceCallback) -> None:
        self.partitions: dict[TopicPartition, Partition] = {}
        self.flowing: set[TopicPartition] = set()
        self.rebalances = 0
        self.consumer: Any = None
        self.is_revoking = False
        """Whether the owner is giving its partitions up: none begins to flow any more."""
        self._on_assigned = on_assigned
        self._on_revoked = on_revoked
        self._failure: Exception | None = None

    def check(self) -> None:
        """Raise the error of a rebalance callback, if there was one."""
        if self._failure is not None:
            raise BusError(f"a rebalance failed: {self._failure}") from self._failure

    async def on_partitions_revoked(self, revoked: Collection[TopicPartition]) -> None:
        """Stop the flow, then let the owner finish: until it returns the partitions are its own."""
        self.is_revoking = True
        self.flowing.clear()
        await self._call(self._on_revoked, revoked)
        self.partitions.clear()

    async def on_partitions_assigned(self, assigned: Collection[TopicPartition]) -> None:
        """Take the partitions over, none of them flowing yet.

        Each gets a position, which `begin` replaces: where there is none, aiokafka asks for the committed
        one before it fetches anything else, and again and again if there is none either.
        """
        self.rebalances += 1
        self.consumer.pause(*assigned)
        for target in assigned:
            self.consumer.seek(target, 0)
        self.is_revoking = False
        self.partitions = {target: Partition(target.topic, target.partition) for target in assigned}
        await self._call(self._on_assigned, assigned)

    async def _call(self, callback: RebalanceCallback, targets: Collection[TopicPartition]) -> None:
        partitions = frozenset(self.partitions[target] for target in targets if target in self.partitions)
        if not partitions:
            return
        try:
            await callback(partitions)
        except Exception as error:  # noqa: BLE001 - kept, and raised by `check`
            self._failure = error
