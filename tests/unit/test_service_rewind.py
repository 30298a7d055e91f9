"""A partition whose newest records the broker lost goes on at its end, with the position that says so."""

import asyncio
from collections.abc import Sequence

from stream_infer.bus.batches import OutRecord
from stream_infer.bus.offsets import Committed
from stream_infer.config import BUILTIN_MODELS, BUILTIN_STREAMS
from stream_infer.errors import RecordTooLargeError
from stream_infer.metrics import Metrics
from stream_infer.schemas import Ordering, Outcome, Partition, Record, Result
from stream_infer.service import partitions
from stream_infer.service.partitions import PartitionOwner

PARTITION = Partition("requests.classify", 0)


class RememberingProducer:
    """Commits in memory and refuses the position that is there, as the transactional producer does."""

    def __init__(self) -> None:
        self.committed = Committed(10, "")
        self.written: list[tuple[int, int]] = []

    async def open(self) -> Committed:
        """Return what was committed."""
        return self.committed

    async def publish(self, records: Sequence[OutRecord], offset: int, metadata: str) -> None:
        """Commit."""
        target = Committed(offset, metadata)
        if target == self.committed:
            raise ValueError(f"position {offset} is already committed")
        self.committed = target
        self.written.append((offset, len(records)))

    async def close(self) -> None:
        """Hold nothing."""


class BareEncoder:
    """Turns every outcome into an empty record."""

    def encode(self, outcome: Outcome) -> tuple[Outcome, OutRecord]:
        """Return the outcome with an empty record."""
        return outcome, OutRecord("out", outcome.record.key, b"")

    def shrink(self, outcome: Outcome, error: RecordTooLargeError) -> tuple[Outcome, OutRecord]:  # noqa: ARG002 - the protocol's
        """Refuse: nothing here is too large."""
        raise error


async def test_new_records_up_to_the_old_position_are_published() -> None:
    """They end where the position stood before the loss; until it goes back, they would count as done."""
    producer = RememberingProducer()
    begun: asyncio.Queue[int | None] = asyncio.Queue()

    async def begin(_partition: Partition, offset: int | None) -> None:
        begun.put_nowait(offset)

    metrics = Metrics(BUILTIN_STREAMS, BUILTIN_MODELS).streams["classify"]
    owner = PartitionOwner(
        PARTITION,
        Ordering.NONE,
        producer,
        BareEncoder(),
        metrics,
        begin=begin,
        drop=lambda _partition: None,
        note=lambda _outcomes, _now: None,
    )
    pause, partitions.LOSS_PAUSE = partitions.LOSS_PAUSE, 0.0
    running = asyncio.create_task(owner.run())
    try:
        assert 10 == await begun.get()
        owner.rewind(8)
        assert 8 == await begun.get()
        assert Committed(8, "") == producer.committed
        await asyncio.sleep(0)
        fresh = owner.admit([Record(PARTITION.topic, 0, offset, 0, None, b"") for offset in (8, 9)])
        owner.finish([Result(record, record.position, "classify", {}, "m") for record in fresh])
        await asyncio.wait({running, asyncio.ensure_future(owner.drain())}, return_when="FIRST_COMPLETED")
        assert [(8, 0), (10, 2)] == producer.written
        assert not running.done()
    finally:
        partitions.LOSS_PAUSE = pause
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
