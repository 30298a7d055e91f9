"""The input side of the bus: one consumer over all input topics of the service."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Iterable
from types import TracebackType
from typing import Any, Self

import structlog
from aiokafka import TopicPartition
from aiokafka.errors import (
    CommitFailedError,
    IllegalStateError,
    KafkaError,
    OffsetOutOfRangeError,
)
from aiokafka.structs import OffsetAndMetadata

from stream_infer.bus.assignment import Assignment, RebalanceCallback
from stream_infer.bus.assignor import NamedAssignor
from stream_infer.bus.connection import REFUSALS, Connection, bus_error
from stream_infer.bus.consumer import make_consumer
from stream_infer.bus.topics import require
from stream_infer.errors import BusError, PartitionLostError
from stream_infer.schemas import Partition, Record

_OffsetsOf = Callable[[list[TopicPartition]], Awaitable[dict[TopicPartition, int]]]

MAX_POLL_INTERVAL_MS = 600_000
"""A paused service may be silent for as long as its slowest batch; heartbeats show that it lives."""
REBALANCE_TIMEOUT_MS = 60_000
"""How long a rebalance waits for members that still drain; a dead one is out after its session."""
METADATA_AGE_MS = 10_000
"""How old what is known of the topics becomes, so how soon a partition that was added is served."""
PARTITION_FETCH_BYTES = 512 * 1024
"""What is fetched ahead for each partition, so what a pause throws away."""
ERROR_BACKOFF = 0.5
"""Seconds before the consumer is asked again after an error."""
PATIENCE = 60.0
"""Seconds of nothing but errors after which the consumer is given up."""

LEAVE_SECONDS = 5.0
"""How long leaving the group may take."""
REBALANCE_GRACE = 0.5
"""Seconds that a fetch may take beyond its wait while the group rebalances."""

log = structlog.get_logger(__name__)


class Source:
    """The records of the partitions that the consumer group gives to this process.

    A partition flows only after `begin` has named its first offset, which the owner knows once it
    has fenced the previous owner. `on_revoked` runs inside the rebalance, heartbeats going on, and
    everyone waits for it; `on_assigned` runs before heartbeats are resumed, so it must return at
    once and leave slow work, such as opening producers, to a task of the owner. `on_rewound` says
    that the broker lost the newest records of a partition, and where it ends now: it flows again
    when the owner begins there.
    """

    def __init__(
        self,
        connection: Connection,
        *,
        group: str,
        topics: Collection[str],
        on_assigned: RebalanceCallback,
        on_revoked: RebalanceCallback,
        on_rewound: Callable[[Partition, int], None],
    ) -> None:
        self._connection = connection
        self._group = group
        self._topics = sorted(topics)
        self._assignment = Assignment(on_assigned, on_revoked)
        self._on_rewound = on_rewound
        self._consumer: Any = None
        self._failing_since: float | None = None

    async def __aenter__(self) -> Self:
        """Join the group.

        Raises:
            ConfigError: a topic does not exist.
            BusError: the broker is out of reach or refuses.
        """
        await require(self._connection, self._topics)
        settings = self._connection.settings
        self._consumer = self._assignment.consumer = make_consumer(
            self._connection.arguments,
            group_id=self._group,
            group_instance_id=settings.instance_id,
            partition_assignment_strategy=(NamedAssignor(settings.instance_id),),
            session_timeout_ms=settings.session_timeout_ms,
            heartbeat_interval_ms=settings.session_timeout_ms // 5,
            rebalance_timeout_ms=REBALANCE_TIMEOUT_MS,
            max_poll_interval_ms=MAX_POLL_INTERVAL_MS,
            metadata_max_age_ms=METADATA_AGE_MS,
            max_partition_fetch_bytes=PARTITION_FETCH_BYTES,
        )
        self._consumer.subscribe(self._topics, listener=self._assignment)
        try:
            await self._consumer.start()
        except BaseException as error:
            await self._consumer.stop()
            if isinstance(error, KafkaError):
                raise bus_error(f"cannot consume {', '.join(self._topics)}", error) from error
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave the group; `on_revoked` is not called.

        A consumer that is joining cannot be told to leave before the broker has answered; then the
        group finds out by the session timeout.
        """
        try:
            async with asyncio.timeout(LEAVE_SECONDS):
                await self._consumer.stop()
        except TimeoutError:
            log.warning("group_not_left", group=self._group, timeout=LEAVE_SECONDS)
            await self._consumer._client.close()  # noqa: SLF001 - what `stop` would have done last

    @property
    def assigned(self) -> frozenset[Partition]:
        """The partitions that belong to this process."""
        return frozenset(self._assignment.partitions.values())

    @property
    def rebalances(self) -> int:
        """How often the group has dealt its partitions out since this process joined, that included."""
        return self._assignment.rebalances

    async def begin(self, partition: Partition, offset: int | None) -> None:
        """Let an assigned partition flow from `offset`, or from its oldest record.

        Raises:
            PartitionLostError: it no longer belongs to this process.
            BusError: the broker did not say where the partition begins.
        """
        target = self._target(partition)
        if offset is None:
            offset = await self._ask(self._consumer.beginning_offsets, target)
        if self._assignment.is_revoking:
            raise PartitionLostError(f"{partition} is being given to another worker")
        self._seek(target, offset)
        self._assignment.flowing.add(target)
        self._consumer.resume(target)

    async def fetch(
        self, wait_seconds: float, max_records: int | None = None
    ) -> dict[Partition, list[Record]]:
        """Return the records that have come, waiting for the first at most about `wait_seconds`.

        With `max_records` the rest stays fetched for the next call, which is cheaper than a pause.

        Raises:
            BusError: a rebalance callback failed, the broker refuses access, or the consumer had
                nothing but errors for `PATIENCE` seconds.
        """
        self._assignment.check()
        try:
            async with asyncio.timeout(wait_seconds + REBALANCE_GRACE):
                fetched = await self._consumer.getmany(
                    timeout_ms=int(wait_seconds * 1000), max_records=max_records
                )
        except TimeoutError:
            return {}
        except OffsetOutOfRangeError as error:
            await self._leave_gap(error.args[0])
            return {}
        except KafkaError as error:
            await self._back_off(error)
            return {}
        self._failing_since = None
        return {
            self._assignment.partitions[target]: [to_record(message) for message in messages]
            for target, messages in fetched.items()
            if target in self._assignment.flowing
        }

    def pause(self, partitions: Iterable[Partition]) -> None:
        """Fetch nothing more of these partitions; those no longer flowing are passed over."""
        self._consumer.pause(*self._still_flowing(partitions))

    def resume(self, partitions: Iterable[Partition]) -> None:
        """Go on fetching these partitions; those no longer flowing are passed over."""
        self._consumer.resume(*self._still_flowing(partitions))

    async def commit(self, partition: Partition, offset: int, metadata: str) -> None:
        """Commit a position outside of any transaction, as at-least-once delivery does.

        Raises:
            PartitionLostError: the partition no longer belongs to this process.
            BusError: the broker refused.
        """
        target = self._target(partition)
        try:
            await self._consumer.commit({target: OffsetAndMetadata(offset, metadata)})
        except (CommitFailedError, IllegalStateError) as error:
            raise PartitionLostError(f"{partition} was given to another worker: {error}") from error
        except KafkaError as error:
            raise bus_error(f"{partition}: offset {offset} was not committed", error) from error

    def rejoin(self) -> None:
        """Have the group deal its partitions out anew, as when two members were given the same one.

        noida-db lets a static member that comes back deal them out without telling the others.
        """
        log.warning("group_doubted", group=self._group)
        self._consumer._coordinator.request_rejoin()  # noqa: SLF001 - aiokafka rejoins by itself only

    def lag(self) -> dict[Partition, int]:
        """Return how many records wait in each flowing partition, as of the last answered fetch."""
        lags = {}
        for target, state in self._states():
            end = state.highwater if state.lso in (None, -1) else state.lso
            if end is not None:
                lags[self._assignment.partitions[target]] = max(0, end - state.position)
        return lags

    def heard_ms(self) -> int | None:
        """Return the wall-clock milliseconds of the last fetch that the broker answered, if any.

        It moves on an idle partition too, so a standstill says that the broker is out of reach,
        which the state of the connection does not; paused partitions are not fetched.
        """
        return max((state.timestamp for _, state in self._states() if state.timestamp), default=None)

    def _states(self) -> list[tuple[TopicPartition, Any]]:
        subscription = self._consumer._subscription.subscription  # noqa: SLF001 - the public way to a position awaits
        current = subscription and subscription.assignment
        states = [(target, current and current.state_value(target)) for target in self._assignment.flowing]
        return [(target, state) for target, state in states if state and state.has_valid_position]

    def _target(self, partition: Partition) -> TopicPartition:
        target = TopicPartition(partition.topic, partition.partition)
        if target not in self._assignment.partitions:
            raise PartitionLostError(f"{partition} does not belong to this worker")
        return target

    def _still_flowing(self, partitions: Iterable[Partition]) -> list[TopicPartition]:
        targets = (TopicPartition(p.topic, p.partition) for p in partitions)
        return [target for target in targets if target in self._assignment.flowing]

    def _seek(self, target: TopicPartition, offset: int) -> None:
        try:
            self._consumer.seek(target, offset)
        except IllegalStateError as error:
            raise PartitionLostError(f"{target} was given to another worker") from error

    async def _ask(self, offsets_of: _OffsetsOf, target: TopicPartition) -> int:
        try:
            return (await offsets_of([target]))[target]
        except KafkaError as error:
            raise bus_error(f"{target}: its offsets could not be read", error) from error

    async def _leave_gap(self, positions: dict[TopicPartition, int]) -> None:
        """Deal with partitions that hold no record at the position to be read.

        Where the oldest records are gone, the flow goes on from the oldest that is left. Where the
        newest are gone, the flow stops until the owner begins again: other records get their offsets.
        """
        for target, position in positions.items():
            try:
                start = await self._in_range(target, position)
            except BusError as error:
                log.warning("range_unknown", error=str(error))
                continue
            if target not in self._assignment.flowing:
                continue
            if start > position:
                self._seek(target, start)
            elif start < position:
                self._assignment.flowing.discard(target)
                self._consumer.pause(target)
                self._on_rewound(self._assignment.partitions[target], start)

    async def _in_range(self, target: TopicPartition, position: int) -> int:
        """Return the position, or the nearest that exists; that records are missing is said aloud."""
        beginning = await self._ask(self._consumer.beginning_offsets, target)
        end = await self._ask(self._consumer.end_offsets, target)
        start = min(max(position, beginning), end)
        if start != position:
            log.error(
                "records_lost_by_broker",
                topic=target.topic,
                partition=target.partition,
                position=position,
                beginning=beginning,
                end=end,
            )
        return start

    async def _back_off(self, error: KafkaError) -> None:
        if isinstance(error, REFUSALS):
            raise bus_error(f"cannot consume {', '.join(self._topics)}", error) from error
        now = asyncio.get_running_loop().time()
        self._failing_since = self._failing_since or now
        if now - self._failing_since > PATIENCE:
            raise BusError(f"nothing but errors for {PATIENCE:g} s: {error}") from error
        log.warning("fetch_failed", error=str(error))
        await asyncio.sleep(ERROR_BACKOFF)


def to_record(message: Any) -> Record:
    """Return a consumed message as the rest of the service knows it."""
    return Record(
        message.topic,
        message.partition,
        message.offset,
        message.timestamp,
        message.key,
        message.value,
        message.headers,
    )
