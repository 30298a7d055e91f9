"""The hot path's role: one worker of the consumer group, from its first fetch to its last commit."""

from __future__ import annotations

import asyncio
import gc
import signal
from collections.abc import Iterable, Sequence
from itertools import groupby
from operator import attrgetter
from time import monotonic, time

import structlog

from stream_infer.bus.connection import Connection
from stream_infer.bus.offsets import CommittedOffsets
from stream_infer.bus.source import Source
from stream_infer.bus.transactions import AtLeastOnceProducer, PartitionProducer, TransactionalProducer
from stream_infer.config import Delivery, Settings, StreamSettings
from stream_infer.flow.pressure import Pressure
from stream_infer.heap import heap_trimmer
from stream_infer.metrics import Metrics
from stream_infer.retrieval.index import PassageIndex
from stream_infer.retrieval.passages import vector_space
from stream_infer.schemas import Outcome, Partition, Task
from stream_infer.service.broker import check_topics, open_connection
from stream_infer.service.encoding import OutcomeEncoder
from stream_infer.service.following import follow_passages, follow_quality, share_cache
from stream_infer.service.gauges import PartitionGauges
from stream_infer.service.inference import Inference
from stream_infer.service.intake import Intake
from stream_infer.service.memory import keep_trimmed
from stream_infer.service.partitions import PartitionOwner
from stream_infer.service.quality import QualityBoard
from stream_infer.service.readiness import WorkerState
from stream_infer.service.recent import RecentOutcomes
from stream_infer.service.tracing import Tracing, open_tracing
from stream_infer.web.server import serve_web
from stream_infer.web.sources import Readiness, Sources

log = structlog.get_logger(__name__)

FETCH_WAIT = 0.2
"""Seconds that a fetch waits for records; so long may a wish to stop go unnoticed."""
MAX_FETCH = 1024
"""Records taken at once, so that one fetch does not keep the event loop from everything else."""

_ORIGIN = attrgetter("record.topic", "record.partition")


async def run_worker(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT, then drain, commit and leave the group.

    A signal that comes before there is anything to drain ends the start.

    Raises:
        ConfigError: settings, models or topics make it impossible to start.
        BusError: no broker answered, or it refuses for good.
    """
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with open_tracing(settings) as tracing, open_connection(settings) as connection:
        await check_topics(connection, settings)
        worker = Worker(settings, connection, tracing)
        async with asyncio.TaskGroup() as group:
            serving = group.create_task(worker.run(stop))
            watching = group.create_task(_cancel_start(worker, serving, stop))
            serving.add_done_callback(lambda _: watching.cancel())


async def _cancel_start(worker: Worker, serving: asyncio.Task[None], stop: asyncio.Event) -> None:
    await stop.wait()
    if not worker.is_serving:
        serving.cancel()


class Worker:
    """Owns the parts of one worker and carries records between them."""

    def __init__(self, settings: Settings, connection: Connection, tracing: Tracing | None = None) -> None:
        self._settings = settings
        self._tracing = tracing or Tracing()
        self._connection = connection
        self._metrics = Metrics(settings.streams, settings.used_models)
        self._index = PassageIndex()
        self._inference = Inference(settings, self._metrics, self._index, self._deliver)
        self._streams = {stream.input: (name, stream) for name, stream in settings.streams.items()}
        self._pressure = Pressure(settings.service.max_buffered_records, settings.service.max_buffered_tokens)
        self._owners: dict[Partition, PartitionOwner] = {}
        self._intake = Intake(settings, self._owners, self._inference.submit)
        self._tasks: dict[Partition, asyncio.Task[None]] = {}
        self._encoders: dict[str, OutcomeEncoder] = {}
        self._recent = RecentOutcomes(settings.streams, shows_text=settings.web.show_text)
        self._state = WorkerState()
        self._is_serving = False
        self._releasing = asyncio.Lock()
        self._background: asyncio.TaskGroup
        self._offsets: CommittedOffsets
        self._source: Source

    @property
    def is_serving(self) -> bool:
        """Whether records are taken in, so that a stop is an orderly one."""
        return self._is_serving

    async def run(self, stop: asyncio.Event) -> None:
        """Serve until `stop` is set.

        1. Load the models. 2. Replay what answers rest on. 3. Join the group and work. 4. When told to
        stop: publish what is in flight, for a bounded time, and only then leave the group.
        """
        self._metrics.read_one("ready", lambda: self._readiness().is_ready)
        async with serve_web(self._settings.web, self._sources()) as port, self._inference:
            self._state.is_loaded = True
            self._encoders = {name: self._encoder(name) for name in self._settings.streams}
            async with (
                CommittedOffsets(self._connection, self._settings.service.group) as self._offsets,
                asyncio.TaskGroup() as self._background,
            ):
                background = await self._start_background()
                # Assigned before it is entered: partitions may come while it starts.
                self._source = self._make_source()
                async with self._source:
                    self._show()
                    log.info(
                        "worker_started", port=port, bootstrap_servers=self._connection.bootstrap_servers
                    )
                    self._is_serving = True
                    _settle_memory()
                    await self._take_in(stop)
                    self._state.is_stopping = True
                    await self._release(list(self._owners))
                for task in background:
                    task.cancel()
        log.info("worker_stopped")

    async def _start_background(self) -> list[asyncio.Task[None]]:
        """Start what goes on beside the intake; returns once passages are replayed."""
        start = self._background.create_task
        tasks = [start(self._inference.run()), start(keep_trimmed(heap_trimmer()))]
        cache = self._settings.cache
        if cache.shared:
            sharing = share_cache(
                self._connection, cache.topic, self._inference.cache, self._inference.take_fresh
            )
            tasks.append(start(sharing))
        if any(stream.task is Task.CLASSIFY for stream in self._settings.streams.values()):
            board = QualityBoard(self._inference.infos)
            board.show(self._metrics)
            tasks.append(start(follow_quality(self._connection, self._settings.side_streams.quality, board)))
        if embedder := self._embedder():
            replayed = asyncio.Event()
            space = vector_space(self._inference.infos[embedder])
            following = follow_passages(
                self._connection,
                self._settings.retrieval.passages,
                self._index,
                space,
                replayed=replayed,
            )
            tasks.append(start(following))
            await replayed.wait()
        self._state.is_replayed = True
        return tasks

    async def _take_in(self, stop: asyncio.Event) -> None:
        """Fetch, decode and submit until told to stop."""
        self._state.progressed_at = self._state.heard_at = monotonic()
        while not stop.is_set():
            fetched = await self._source.fetch(FETCH_WAIT, MAX_FETCH)
            await self._intake.admit(fetched)
            self._relieve()
            self._note_progress()
            # A fetch of what is buffered already returns without ever yielding to the other tasks.
            await asyncio.sleep(0)

    def _deliver(self, outcomes: Sequence[Outcome]) -> None:
        """Hand outcomes to the owners of their partitions; those of a lost partition have none."""
        for place, those in groupby(outcomes, key=_ORIGIN):
            owner = self._owners.get(Partition(*place))
            if owner is not None:
                owner.finish(those)

    def _relieve(self) -> None:
        """Stop or resume fetching by what is buffered; polling goes on meanwhile."""
        change = self._pressure.change({partition: owner.load for partition, owner in self._owners.items()})
        if change.pause:
            self._source.pause(change.pause)
        if change.resume:
            self._source.resume(change.resume)

    def _note_progress(self) -> None:
        """Keep what readiness is judged by up to date."""
        now = monotonic()
        in_flight = sum(owner.load.records for owner in self._owners.values())
        is_idle = not (in_flight or any(self._source.lag().values()))
        self._state.note(sum(owner.committed for owner in self._owners.values()), now, is_idle=is_idle)
        heard_ms = self._source.heard_ms()
        self._state.heard_at = now if heard_ms is None else now - max(time() - heard_ms / 1000, 0.0)
        self._state.is_working = self._inference.is_working

    async def _on_assigned(self, partitions: Iterable[Partition]) -> None:
        """Own the partitions, unless they come while this worker leaves: nobody would release them."""
        if self._state.is_stopping:
            return
        for partition in partitions:
            owner = self._make_owner(partition)
            owning = owner.run()
            try:
                self._tasks[partition] = self._background.create_task(owning)
            except RuntimeError:
                # What else goes on has failed, and ends this worker.
                owning.close()
                return
            self._owners[partition] = owner

    async def _release(self, partitions: Iterable[Partition]) -> None:
        """Let partitions go: publish what is in flight, for a bounded time, then close their producers.

        A rebalance may ask for this while the worker stops and does the same: the second waits for the
        first, and finds nothing left.
        """
        async with self._releasing:
            await self._release_owned(partitions)

    async def _release_owned(self, partitions: Iterable[Partition]) -> None:
        owners = [self._owners[partition] for partition in partitions if partition in self._owners]
        timeout = self._settings.service.drain_timeout_ms / 1000
        try:
            async with asyncio.timeout(timeout):
                await asyncio.gather(*(owner.drain() for owner in owners))
        except TimeoutError:
            log.warning("drain_timed_out", partitions=len(owners), timeout=timeout)
        for owner in owners:
            self._tasks[owner.partition].cancel()
        await asyncio.gather(*(self._tasks.pop(owner.partition) for owner in owners), return_exceptions=True)
        for owner in owners:
            del self._owners[owner.partition]

    def _make_source(self) -> Source:
        return Source(
            self._connection,
            group=self._settings.service.group,
            topics=list(self._streams),
            on_assigned=self._on_assigned,
            on_revoked=self._release,
            on_rewound=lambda partition, end: self._owners[partition].rewind(end),
        )

    def _make_owner(self, partition: Partition) -> PartitionOwner:
        name, stream = self._streams[partition.topic]
        return PartitionOwner(
            partition,
            stream.ordering,
            self._make_producer(partition, stream),
            self._encoders[name],
            self._metrics.streams[name],
            begin=self._source.begin,
            drop=self._inference.drop,
            tracer=self._tracing.tracer,
            note=self._note_committed,
            doubt=self._source.rejoin,
        )

    def _note_committed(self, outcomes: Sequence[Outcome], now: float) -> None:
        self._inference.committed(outcomes, now)
        self._recent.note(outcomes, now=now, at_ms=int(time() * 1000))

    def _make_producer(self, partition: Partition, stream: StreamSettings) -> PartitionProducer:
        if stream.delivery is Delivery.AT_LEAST_ONCE:
            return AtLeastOnceProducer(
                self._connection, self._offsets, self._source.commit, partition=partition
            )
        group = self._settings.service.group
        return TransactionalProducer(self._connection, self._offsets, group=group, partition=partition)

    def _encoder(self, name: str) -> OutcomeEncoder:
        stream = self._settings.streams[name]
        infos = self._inference.infos
        return OutcomeEncoder(
            name,
            stream,
            infos[stream.model],
            infos.get(stream.reader_model or ""),
            hides_text=self._settings.privacy.hides_text,
        )

    def _embedder(self) -> str | None:
        """The model whose vectors are searched, if any stream answers questions."""
        models = (stream.model for stream in self._settings.streams.values() if stream.task is Task.ANSWER)
        return next(models, None)

    def _show(self) -> None:
        """Let the metrics read what this worker's partitions hold."""
        metrics = self._metrics
        metrics.read_one("rebalances", lambda: self._source.rebalances)
        metrics.read_one("trace_spans_dropped", self._tracing.dropped)
        gauges = PartitionGauges(self._owners, lambda topic: self._streams[topic][0], self._source.lag)
        gauges.show(metrics)

    def _sources(self) -> Sources:
        about = {"group": self._settings.service.group, "shows_text": self._settings.web.show_text}
        return Sources(self._metrics.registry, self._readiness, self._recent.as_dict, about)

    def _readiness(self) -> Readiness:
        partitions = [(f"{p.topic}/{p.partition}", owner.is_open) for p, owner in self._owners.items()]
        return self._state.readiness(partitions, monotonic())


def _settle_memory() -> None:
    """Keep what was loaded out of every later collection: it stays as long as the process."""
    gc.collect()
    gc.freeze()
