"""An owner counts what it took in, and how its transactions ended."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from random import Random

import pytest
from structlog.testing import capture_logs

from stream_infer.bus.batches import OutRecord
from stream_infer.bus.offsets import Committed
from stream_infer.bus.transactions import PartitionProducer
from stream_infer.config import BUILTIN_MODELS, BUILTIN_STREAMS
from stream_infer.errors import (
    AccessRefusedError,
    BusError,
    PartitionLostError,
    RecordTooLargeError,
    StreamInferError,
)
from stream_infer.metrics import Metrics
from stream_infer.schemas import DeadLetter, Ordering, Outcome, Partition, Record, Result
from stream_infer.service import partitions
from stream_infer.service.partitions import PartitionOwner
from stream_infer.tracing.sampling import Sampler, SamplingPolicy
from stream_infer.tracing.spans import Span
from stream_infer.tracing.tracer import Tracer

PARTITION = Partition("requests.classify", 0)


class ScriptedProducer:
    """Fails as told, one error for each call, and from then on commits."""

    def __init__(self, errors: Sequence[Exception]) -> None:
        self._errors = list(errors)
        self.written: list[list[tuple[str, bytes | None]]] = []

    async def open(self) -> Committed:
        """Begin at the start."""
        return Committed(0, "")

    async def publish(self, records: Sequence[OutRecord], offset: int, metadata: str) -> None:  # noqa: ARG002 - the protocol's
        """Raise the next error, if one is left."""
        self.written += [list(record.headers) for record in records]
        if self._errors:
            raise self._errors.pop(0)

    async def close(self) -> None:
        """Hold nothing."""


class RememberingProducer:
    """Commits in memory and refuses the position that is there, as the transactional producer does."""

    def __init__(self) -> None:
        self.committed = Committed(10, "")
        self.written: list[tuple[int, int]] = []
        self.errors: list[Exception] = []
        """What it fails with first, one for each call."""

    async def open(self) -> Committed:
        """Return what was committed."""
        return self.committed

    async def publish(self, records: Sequence[OutRecord], offset: int, metadata: str) -> None:
        """Commit."""
        if self.errors:
            raise self.errors.pop(0)
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

    def shrink(self, outcome: Outcome, record: OutRecord) -> tuple[Outcome, OutRecord]:  # noqa: ARG002 - the protocol's
        """Return a dead letter."""
        letter = DeadLetter(outcome.record, outcome.id, "classify", "result_too_large", "why", "publish")
        return self.encode(letter)


def record(offset: int) -> Record:
    return Record(PARTITION.topic, 0, offset, 1_000 + offset, None, b"value")


async def let_flow(_partition: Partition, _offset: int | None) -> None:
    """Begin, as a source would."""


def make_owner(
    metrics: Metrics,
    producer: PartitionProducer,
    *,
    begin: Callable[[Partition, int | None], Awaitable[None]] = let_flow,
    noted: list[Outcome] | None = None,
    tracer: Tracer | None = None,
    doubt: Callable[[], None] = lambda: None,
) -> PartitionOwner:
    told = [] if noted is None else noted
    return PartitionOwner(
        PARTITION,
        Ordering.NONE,
        producer,
        BareEncoder(),
        metrics.streams["classify"],
        begin=begin,
        drop=lambda _partition: None,
        tracer=tracer,
        note=lambda outcomes, _now: told.extend(outcomes),
        doubt=doubt,
    )


@asynccontextmanager
async def owning(
    metrics: Metrics,
    errors: Sequence[Exception],
    noted: list[Outcome] | None = None,
    tracer: Tracer | None = None,
    producer: ScriptedProducer | None = None,
) -> AsyncIterator[PartitionOwner]:
    """Yield an owner whose partition is open."""
    opened = asyncio.Event()

    async def begin(_partition: Partition, _offset: int | None) -> None:
        opened.set()

    owner = make_owner(metrics, producer or ScriptedProducer(errors), begin=begin, noted=noted, tracer=tracer)
    running = asyncio.create_task(owner.run())
    await opened.wait()
    assert owner.is_open
    yield owner
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


def count(metrics: Metrics, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(f"stream_infer_{name}", {"stream": "classify", **labels})


@pytest.fixture
def metrics(monkeypatch: pytest.MonkeyPatch) -> Metrics:
    for pause in ("RETRY_PAUSE", "LOSS_PAUSE"):
        monkeypatch.setattr(partitions, pause, 0.0)
    return Metrics(BUILTIN_STREAMS, BUILTIN_MODELS)


async def publish_one(owner: PartitionOwner) -> None:
    (fresh,) = owner.admit([record(0)])
    assert 1_000 == owner.oldest_ms
    owner.finish([Result(fresh, "0", "classify", {}, "m")])
    await owner.drain()
    assert owner.oldest_ms is None


async def test_what_is_committed_at_once_is_counted_once(metrics: Metrics) -> None:
    async with owning(metrics, []) as owner:
        await publish_one(owner)
    assert 1.0 == count(metrics, "received_total")
    assert 1.0 == count(metrics, "results_total")
    assert 1.0 == count(metrics, "transactions_total", outcome="committed")
    assert 1.0 == count(metrics, "transaction_seconds_count")
    assert 1.0 == count(metrics, "latency_seconds_count", stage="publish")


async def test_each_aborted_transaction_is_counted_and_the_result_once(metrics: Metrics) -> None:
    async with owning(metrics, [BusError("refused")] * 2) as owner:
        await publish_one(owner)
    assert 2.0 == count(metrics, "transactions_total", outcome="aborted")
    assert 1.0 == count(metrics, "transactions_total", outcome="committed")
    assert 1.0 == count(metrics, "transaction_seconds_count")
    assert 1.0 == count(metrics, "results_total")


async def test_what_was_too_large_to_publish_counts_as_what_went_out_for_it(metrics: Metrics) -> None:
    async with owning(metrics, [RecordTooLargeError("too large", 0)]) as owner:
        await publish_one(owner)
    assert 1.0 == count(metrics, "transactions_total", outcome="aborted")
    assert 0.0 == count(metrics, "results_total")
    assert 1.0 == count(metrics, "dead_letters_total", reason="result_too_large")


async def test_a_dead_letter_that_no_topic_is_large_enough_for_waits_and_says_so(metrics: Metrics) -> None:
    """It gets no smaller, so to try again at once would be to do nothing else any more."""
    paused = 0

    async def pause(_seconds: float) -> None:
        nonlocal paused
        paused += 1

    errors = [RecordTooLargeError("the broker refuses a record for its size", 0) for _ in range(5)]
    with pytest.MonkeyPatch.context() as patch, capture_logs() as logs:
        async with owning(metrics, errors) as owner:
            patch.setattr("asyncio.sleep", pause)
            await publish_one(owner)

    assert 3 == paused
    said = [entry["error"] for entry in logs if entry["event"] == "publish_failed"]
    assert ["the broker refuses a record for its size, as small as it is"] * 3 == said


async def test_what_is_noted_is_what_was_committed(metrics: Metrics) -> None:
    """Once, and as it went out: here the result became a dead letter on the way."""
    noted: list[Outcome] = []
    async with owning(metrics, [BusError("refused"), RecordTooLargeError("too large", 0)], noted) as owner:
        await publish_one(owner)
    assert ["result_too_large"] == [outcome.reason for outcome in noted if isinstance(outcome, DeadLetter)]
    assert 1 == len(noted)


async def test_a_lost_partition_commits_nothing_and_says_so(metrics: Metrics) -> None:
    async with owning(metrics, [PartitionLostError("fenced")]) as owner:
        await publish_one(owner)
    assert 1.0 == count(metrics, "transactions_total", outcome="lost")
    assert 0.0 == count(metrics, "transactions_total", outcome="committed")
    assert 0.0 == count(metrics, "results_total")


@pytest.mark.parametrize("error", [BusError("refused"), RecordTooLargeError("too large", 0)])
async def test_what_is_published_again_keeps_its_span(metrics: Metrics, error: BusError) -> None:
    """The header that went out with the failed try is the one that readers see in the end."""
    spans: list[Span] = []
    producer = ScriptedProducer([error])
    tracer = Tracer(
        Sampler(SamplingPolicy(1.0)),
        spans.extend,
        Random(1).getrandbits,
        group="g",
        precisions={},
    )
    async with owning(metrics, [], tracer=tracer, producer=producer) as owner:
        await publish_one(owner)

    headers = [dict(headers)["traceparent"] for headers in producer.written]
    consumed = [span for span in spans if span.consumes]
    assert [consumed[0].context.traceparent] * 2 == headers
    assert 1 == len(consumed)


async def test_of_a_lost_partition_nothing_is_told(metrics: Metrics) -> None:
    spans: list[Span] = []
    tracer = Tracer(
        Sampler(SamplingPolicy(1.0)), spans.extend, Random(1).getrandbits, group="g", precisions={}
    )
    async with owning(metrics, [PartitionLostError("fenced")], tracer=tracer) as owner:
        await publish_one(owner)
    assert [] == spans


async def test_a_commit_that_cannot_be_read_ends_the_worker_and_is_named(metrics: Metrics) -> None:
    """To guess what is done would be to repeat or to lose records, so nothing is opened."""

    class Damaged(ScriptedProducer):
        async def open(self) -> Committed:
            return Committed(5, "si1:cut sho")

    owner = make_owner(metrics, Damaged([]), begin=lambda *_: pytest.fail("it was opened"))
    with pytest.raises(StreamInferError, match=r"requests\.classify/0: commit metadata .* 'si1:cut sho'"):
        await owner.run()


async def test_a_broker_out_of_reach_does_not_end_the_owner(metrics: Metrics) -> None:
    """Where a new partition begins is asked of the broker, which may be away just then."""
    answers = [BusError("its offsets could not be read"), None]

    async def begin(*_: object) -> None:
        if (answer := answers.pop(0)) is not None:
            raise answer

    owner = make_owner(metrics, ScriptedProducer([]), begin=begin)
    running = asyncio.create_task(owner.run())
    async with asyncio.timeout(5.0):
        while not owner.is_open:  # noqa: ASYNC110 - it sets no event
            await asyncio.sleep(0)
    running.cancel()

    assert [] == answers


@pytest.mark.parametrize(("short_tenure", "doubts"), [(30.0, [3, 6]), (0.0, [])])
async def test_who_keeps_losing_a_partition_soon_doubts_that_it_is_its_own(
    metrics: Metrics, monkeypatch: pytest.MonkeyPatch, short_tenure: float, doubts: list[int]
) -> None:
    """Without a rebalance the two that were given it would take it from each other for ever."""
    monkeypatch.setattr(partitions, "SHORT_TENURE", short_tenure)
    found: list[int] = []
    done = asyncio.Event()
    begun = 0

    async def begin(*_: object) -> None:
        nonlocal begun
        begun += 1
        if begun > 7:
            done.set()
            await asyncio.Event().wait()
        raise PartitionLostError("taken by another worker")

    owner = make_owner(metrics, ScriptedProducer([]), begin=begin, doubt=lambda: found.append(begun))
    running = asyncio.create_task(owner.run())
    await asyncio.wait_for(done.wait(), 5.0)
    running.cancel()

    assert doubts == found


async def test_what_the_broker_does_not_allow_is_not_tried_again(metrics: Metrics) -> None:
    """An owner would else publish the same for ever, ten times a second."""
    producer = ScriptedProducer([AccessRefusedError("topic out: access is refused")])
    owner = make_owner(metrics, producer)
    running = asyncio.create_task(owner.run())
    while not owner.is_open:  # noqa: ASYNC110 - it sets no event
        await asyncio.sleep(0)
    (fresh,) = owner.admit([record(0)])
    owner.finish([Result(fresh, "0", "classify", {}, "m")])

    with pytest.raises(AccessRefusedError, match="topic out"):
        await asyncio.wait_for(running, 5.0)
    assert 1 == len(producer.written)


@asynccontextmanager
async def rewound(metrics: Metrics, producer: RememberingProducer) -> AsyncIterator[PartitionOwner]:
    """Yield an owner whose partition stood at 10 and was cut off at 8, once it flows from there."""
    begun: asyncio.Queue[int | None] = asyncio.Queue()

    async def begin(_partition: Partition, offset: int | None) -> None:
        begun.put_nowait(offset)

    owner = make_owner(metrics, producer, begin=begin)
    running = asyncio.create_task(owner.run())
    try:
        assert 10 == await begun.get()
        owner.rewind(8)
        assert 8 == await begun.get()
        assert Committed(8, "") == producer.committed
        await asyncio.sleep(0)
        yield owner
        assert not running.done()
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def publish_two(owner: PartitionOwner) -> None:
    fresh = owner.admit([record(offset) for offset in (8, 9)])
    owner.finish([Result(each, each.position, "classify", {}, "m") for each in fresh])
    async with asyncio.timeout(5.0):
        await owner.drain()


async def test_new_records_up_to_the_old_position_are_published(metrics: Metrics) -> None:
    """They end where the position stood before the loss; until it goes back, they would count as done."""
    producer = RememberingProducer()
    async with rewound(metrics, producer) as owner:
        await publish_two(owner)
        assert [(8, 0), (10, 2)] == producer.written


async def test_a_position_is_moved_back_however_often_the_bus_fails(metrics: Metrics) -> None:
    producer = RememberingProducer()
    producer.errors = [BusError("nothing was committed"), BusError("nothing was committed")]
    async with rewound(metrics, producer) as owner:
        await publish_two(owner)
        assert [(8, 0), (10, 2)] == producer.written


async def test_a_position_that_may_not_be_moved_back_ends_the_owner(metrics: Metrics) -> None:
    producer = RememberingProducer()
    producer.errors = [AccessRefusedError("group g: access is refused")]
    owner = make_owner(metrics, producer)
    owner.rewind(8)

    with pytest.raises(AccessRefusedError, match="group g"):
        await asyncio.wait_for(owner.run(), 5.0)
