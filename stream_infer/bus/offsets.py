"""The committed positions of a consumer group, with their metadata."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from aiokafka import TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import GroupAuthorizationFailedError, KafkaError

from stream_infer.bus.connection import REACH_BACKOFF, Connection, bus_error
from stream_infer.schemas import Partition


@dataclass(frozen=True, slots=True)
class Committed:
    """A group's position in one partition; `offset` is None where it never committed."""

    offset: int | None = None
    metadata: str = ""


class CommittedOffsets:
    """Reads what a group has committed; aiokafka's consumer would drop the metadata."""

    def __init__(self, connection: Connection, group: str) -> None:
        self._connection = connection
        self._group = group
        self._admin: Any = None

    async def __aenter__(self) -> Self:
        self._admin = AIOKafkaAdminClient(**self._connection.arguments)
        try:
            await self._admin.start()
        except KafkaError as error:
            await self._admin.close()
            raise bus_error(f"cannot read offsets of group {self._group}", error) from error
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._admin.close()

    async def read(self, partitions: Collection[Partition]) -> dict[Partition, Committed]:
        """Return the group's position in each of `partitions`, for as long as it takes to learn it.

        A coordinator that still loads answers with no partition at all, which must not be taken for
        "never committed": the group would start over. So a missing partition means "ask again".

        Raises:
            AccessRefusedError: the broker does not allow it.
        """
        targets = [TopicPartition(p.topic, p.partition) for p in partitions]
        while True:
            found = await self._ask(targets)
            if all(target in found for target in targets):
                return {Partition(t.topic, t.partition): _committed(*found[t]) for t in targets}
            await asyncio.sleep(REACH_BACKOFF)

    async def _ask(self, targets: list[TopicPartition]) -> dict[TopicPartition, tuple[int, str]]:
        try:
            return await self._admin.list_consumer_group_offsets(self._group, partitions=targets)  # type: ignore[no-any-return] # aiokafka publishes no types
        except GroupAuthorizationFailedError as error:
            raise bus_error(f"group {self._group}", error) from error
        except (KafkaError, AttributeError):  # it trips over its own report of a partition's error
            return {}


def _committed(offset: int, metadata: str) -> Committed:
    return Committed(offset, metadata) if offset >= 0 else Committed()
