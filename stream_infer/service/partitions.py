"""One input partition that this worker owns: from taking it over to letting it go."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Sequence
from time import monotonic, time_ns
from typing import Protocol

import structlog

from stream_infer.bus.batches import OutRecord
from stream_infer.bus.offsets import Committed
from stream_infer.bus.transactions import PartitionProducer
from stream_infer.counting import StreamMetrics
from stream_infer.errors import (
    AccessRefusedError,
    BusError,
    PartitionLostError,
    RecordTooLargeError,
    UnreadableError,
)
from stream_infer.flow.offsets import parse_metadata
from stream_infer.flow.partition import InputPartition, Publication
from stream_infer.flow.pressure import Load
from stream_infer.schemas import Ordering, Outcome, Partition, Record
from stream_infer.tracing.tracer import PublicationTrace, Tracer

log = structlog.get_logger(__name__)

MAX_PUBLICATION = 1024
"""Outcomes in one transaction: many enough to make its cost small, few enough to keep it short."""
SHRINKINGS = 2
"""How often an outcome can become smaller: a result becomes a dead letter, and that a bare one."""
RETRY_PAUSE = 0.1
"""Seconds before the same is published again after the bus refused it."""
LOSS_PAUSE = 1.0
"""Seconds before a lost partition is taken over again: by then its revocation would have come."""
SHORT_TENURE = 30.0
"""Seconds: who loses a partition sooner after it was opened may share it with another worker."""
LOSSES_IN_DOUBT = 3
"""Short tenures in a row after which what the group dealt out is doubted."""


class Encoder(Protocol):
    """What an outcome looks like on the bus."""

    def encode(self, outcome: Outcome) -> tuple[Outcome, OutRecord]:
        """Return what goes out for the outcome: itself, or a dead letter, and its record."""
        ...

    def shrink(self, outcome: Outcome, record: OutRecord) -> tuple[Outcome, OutRecord]:
        """Return what goes out instead of an outcome whose record the broker found too large.

        A result becomes a dead letter, and a dead letter loses what it carries.
        """
        ...


class PartitionOwner:
    """Publishes the outcomes of one partition, in transactions that clock themselves.

    `begin` lets the partition flow from an offset (None: from its oldest record), `drop` makes the
    engine forget its work, and `note` is told what was committed, and when. `doubt` is called when the
    partition is lost again and again though nobody revokes it: another worker owns it too.
    """

    def __init__(
        self,
        partition: Partition,
        ordering: Ordering,
        producer: PartitionProducer,
        encoder: Encoder,
        metrics: StreamMetrics,
        *,
        begin: Callable[[Partition, int | None], Awaitable[None]],
        drop: Callable[[Partition], None],
        note: Callable[[Sequence[Outcome], float], None],
        doubt: Callable[[], None],
        tracer: Tracer | None = None,
    ) -> None:
        self.partition = partition
        self.committed = 0
        """How many outcomes were committed so far."""
        self._ordering = ordering
        self._producer = producer
        self._encoder = encoder
        self._metrics = metrics
        self._begin = begin
        self._drop = drop
        self._tracer = tracer
        self._note = note
        self._doubt = doubt
        self._short_tenures = 0
        self._state: InputPartition | None = None
        self._rewound_to: int | None = None
        self._changed = asyncio.Event()
        self._drained = asyncio.Event()
        self._drained.set()

    @property
    def load(self) -> Load:
        """What is buffered, for back-pressure."""
        return self._state.load if self._state else Load(0, 0)

    @property
    def tenure(self) -> object:
        """What stays the same as long as the partition has not been lost; None while it is not open."""
        return self._state

    @property
    def oldest_ms(self) -> int | None:
        """The timestamp of the oldest record in flight, or None while none is."""
        return self._state.oldest_ms if self._state else None

    @property
    def is_open(self) -> bool:
        """Whether the partition has been taken over and flows."""
        return self._state is not None

    async def run(self) -> None:
        """Own the partition until cancelled; a loss drops the work and takes the partition over again.

        So does a broker that is out of reach while the partition is taken over. A loss that is final is
        followed by the partition's revocation, which cancels this.

        Raises:
            AccessRefusedError: the broker does not let this worker do what the partition needs.
        """
        try:
            while True:
                began = monotonic()
                try:
                    await self._own()
                except PartitionLostError as error:
                    log.warning("partition_lost", **_fields(self.partition), error=str(error))
                    self._judge(monotonic() - began)
                except AccessRefusedError:
                    raise
                except BusError as error:
                    log.warning("partition_not_opened", **_fields(self.partition), error=str(error))
                self._forget()
                await asyncio.sleep(LOSS_PAUSE)
        finally:
            self._forget()
            await self._producer.close()

    def admit(self, records: Iterable[Record]) -> list[Record]:
        """Return the fetched records that are to be processed."""
        if self._state is None:
            return []
        fresh = self._state.admit(records)
        self._metrics.received.inc(len(fresh))
        if fresh:
            self._drained.clear()
        return fresh

    def finish(self, outcomes: Iterable[Outcome]) -> None:
        """Take outcomes in; they are published with the next transaction that has its turn."""
        if self._state is not None:
            for outcome in outcomes:
                self._state.finish(outcome)
            self._changed.set()

    def rewind(self, end: int) -> None:
        """Own the partition anew from its end: the broker lost what was read there, and more."""
        self._rewound_to = end
        self._changed.set()

    async def drain(self) -> None:
        """Return once every admitted record is published."""
        await self._drained.wait()

    async def _own(self) -> None:
        """Take over and publish, in the order on which exactly once rests.

        1. Fence older producers, which ends their open transaction. 2. Read the committed position
        and what is done above it. 3. Let the partition flow from there. 4. Publish what is ready, one
        transaction at a time: what becomes ready meanwhile goes into the next.
        """
        committed = await self._producer.open()
        if self._rewound_to is not None:
            committed = await self._move_back(committed, self._rewound_to)
        start = committed.offset or 0
        state = InputPartition(start, _done_above(self.partition, start, committed.metadata), self._ordering)
        await self._begin(self.partition, committed.offset)
        # Only now, with the flow at the committed offset: what was fetched before is not to be admitted.
        self._state = state
        log.info("partition_opened", **_fields(self.partition), offset=committed.offset)
        while True:
            if self._rewound_to is not None:
                raise PartitionLostError(f"{self.partition} was cut off at {self._rewound_to} by the broker")
            publication = state.take_publishable(MAX_PUBLICATION)
            if publication is not None:
                await self._publish(state, publication)
                continue
            if state.is_drained:
                self._drained.set()
            self._changed.clear()
            await self._changed.wait()

    async def _move_back(self, committed: Committed, end: int) -> Committed:
        """Commit the end of a partition that was cut off: new records below the old position are not done."""
        target = Committed(end)
        if target != committed:
            await self._producer.publish((), end, target.metadata)
        if self._rewound_to == end:
            self._rewound_to = None
        return target

    async def _publish(self, state: InputPartition, publication: Publication) -> None:
        """Commit one publication, however often the bus refuses; the same outcomes go out each time."""
        encoded = [self._encoder.encode(outcome) for outcome in publication.outcomes]
        outcomes = [outcome for outcome, _ in encoded]
        records = [record for _, record in encoded]
        trace = self._trace(outcomes, records)
        shrunk: Counter[int] = Counter()
        while True:
            try:
                await self._transact(records, publication)
                break
            except RecordTooLargeError as error:
                place = error.index
                shrunk[place] += 1
                if shrunk[place] > SHRINKINGS:
                    # The topic may be made to take it; until then the partition waits.
                    await self._wait_after(f"{error}, as small as it is")
                outcomes[place], records[place] = self._encoder.shrink(outcomes[place], records[place])
                if trace:
                    trace.stamp(place, outcomes[place], records[place].headers, monotonic())
            except (PartitionLostError, AccessRefusedError):
                raise
            except BusError as error:
                await self._wait_after(str(error))
        state.published(publication)
        self.committed += len(outcomes)
        now = monotonic()
        self._metrics.count_published(outcomes, now)
        self._note(outcomes, now)
        if trace:
            trace.committed(outcomes, now, time_ns())

    async def _wait_after(self, fault: str) -> None:
        """Say why nothing was published, and let some time pass before it is tried again."""
        log.warning("publish_failed", **_fields(self.partition), error=fault)
        await asyncio.sleep(RETRY_PAUSE)

    def _trace(self, outcomes: Sequence[Outcome], records: Sequence[OutRecord]) -> PublicationTrace | None:
        """Let the records that go out carry the traces on that their inputs belong to."""
        if self._tracer is None:
            return None
        trace, now = PublicationTrace(self._tracer), monotonic()
        for place, (outcome, record) in enumerate(zip(outcomes, records, strict=True)):
            trace.stamp(place, outcome, record.headers, now)
        return trace

    async def _transact(self, records: Sequence[OutRecord], publication: Publication) -> None:
        """Run one transaction, and count how it ended."""
        started = monotonic()
        try:
            await self._producer.publish(records, publication.position, publication.metadata)
        except PartitionLostError:
            self._metrics.transactions["lost"].inc()
            raise
        except BusError:
            self._metrics.transactions["aborted"].inc()
            raise
        self._metrics.count_commit(monotonic() - started)

    def _judge(self, tenure: float) -> None:
        """Doubt that the partition is this worker's alone when it keeps being lost soon."""
        self._short_tenures = self._short_tenures + 1 if tenure < SHORT_TENURE else 0
        if self._short_tenures == LOSSES_IN_DOUBT:
            self._short_tenures = 0
            self._doubt()

    def _forget(self) -> None:
        """Drop the partition's work, here and in the engine."""
        self._state = None
        self._drained.set()
        self._drop(self.partition)


def _fields(partition: Partition) -> dict[str, str | int]:
    return {"topic": partition.topic, "partition": partition.partition}


def _done_above(partition: Partition, position: int, metadata: str) -> tuple[range, ...]:
    """Return what a commit says is done above its position; one that cannot be read names its partition."""
    try:
        return parse_metadata(position, metadata)
    except UnreadableError as error:
        raise UnreadableError(f"{partition.topic}/{partition.partition}: {error}") from error
