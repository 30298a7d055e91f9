"""Requests in, outcomes out: tokenizers, cache and replicas around the pure processor. Knows no bus."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from time import monotonic
from types import TracebackType
from typing import Self

import structlog

from stream_infer.config import Late, Settings
from stream_infer.engine.calibration import Calibration
from stream_infer.engine.replica import Replica
from stream_infer.engine.sources import resolve
from stream_infer.engine.specs import COMPUTATION_VERSION, ModelKind
from stream_infer.engine.threads import threads_per_replica
from stream_infer.engine.tokenization import Tokenizer, load_tokenizer
from stream_infer.errors import ModelFailedError
from stream_infer.flow.pending import StreamPlan, Unencoded
from stream_infer.flow.processor import Processor
from stream_infer.flow.retry import RetryPolicy
from stream_infer.metrics import Metrics
from stream_infer.retrieval.cache import EmbeddingCache, model_identity, work_key
from stream_infer.retrieval.index import PassageIndex
from stream_infer.schemas import ModelInfo, Outcome, Output, Partition, Request, Tokens, Work
from stream_infer.service.calibrating import calibrate_models, calibrated, make_lane
from stream_infer.service.recipes import RecipeBook
from stream_infer.service.running import BatchRunner

log = structlog.get_logger(__name__)

Deliver = Callable[[Sequence[Outcome]], None]

MAX_FRESH = 4096
"""Outputs kept until they are shared with other workers."""
SHORT_CHARS = 512
"""Text that is tokenised within the event loop: some .1 ms, and the way to a thread and back takes more."""
FAILURES_TO_DOUBT = 20
"""Batches failing in a row after which the engine is at fault, rather than records."""


class Inference:
    """The engine side of a worker.

    Entering loads every model, in all replicas at once; `run` then works until it is cancelled.
    Outcomes go to `deliver`, in the order in which they came about.
    """

    def __init__(self, settings: Settings, metrics: Metrics, index: PassageIndex, deliver: Deliver) -> None:
        self.cache = EmbeddingCache(settings.cache.max_bytes)
        self._settings = settings
        self._metrics = metrics
        self._index = index
        self._deliver = deliver
        self._stack = AsyncExitStack()
        self._unencoded = asyncio.Event()
        self._replicas: list[Replica] = []
        self._tokenizers: dict[str, Tokenizer] = {}
        self._calibrations: dict[str, Calibration] = {}
        self._identities: dict[str, str] = {}
        self._processor: Processor
        self._runner: BatchRunner
        self._recipes: RecipeBook

    async def __aenter__(self) -> Self:
        """Start the replicas and load the tokenizers, all at the same time; then find how models run best.

        Raises:
            ConfigError: a model cannot be loaded, or its 8-bit form is not faithful enough.
        """
        try:
            async with asyncio.TaskGroup() as group:
                tokenizers = group.create_task(asyncio.to_thread(self._load_tokenizers))
                for replica in self._make_replicas():
                    group.create_task(self._stack.enter_async_context(replica))
            self._tokenizers = tokenizers.result()
            self._calibrations = await calibrate_models(self._settings, self._replicas, self._tokenizers)
        except BaseException:
            await self._stack.aclose()
            raise
        self._identities = {name: self._identity(name, info) for name, info in self.infos.items()}
        self._processor = self._make_processor()
        self._runner = BatchRunner(
            self._processor,
            self._replicas,
            self._metrics.models,
            threads={name: calibration.threads for name, calibration in self._calibrations.items()},
            budget=min(stream.latency_budget_ms for stream in self._settings.streams.values()) / 1000,
            flush=self._flush,
        )
        self._recipes = RecipeBook(self._settings, self.infos, self._tokenizers, self._index)
        self._describe()
        self._show()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    @property
    def infos(self) -> dict[str, ModelInfo]:
        """What each loaded model says of itself."""
        infos = self._replicas[0].infos
        return {name: calibrated(info, self._calibrations.get(name)) for name, info in infos.items()}

    @property
    def is_working(self) -> bool:
        """Whether batches pass, now and then."""
        return self._processor.failures_in_a_row < FAILURES_TO_DOUBT

    def submit(self, requests: Sequence[Request]) -> None:
        """Start requests; what the cache answers is delivered before this returns."""
        now = monotonic()
        for request in requests:
            self._processor.submit(request, self._recipes.recipe(request), now)
        self._flush()

    def drop(self, partition: Partition) -> None:
        """Forget the requests of a partition that was lost."""
        self._processor.drop(partition)

    def committed(self, outcomes: Sequence[Outcome], now: float) -> None:
        """Take note of outcomes that were committed at `now`."""
        self._processor.committed(outcomes, now)

    def take_fresh(self) -> list[tuple[bytes, Output]]:
        """Return what models computed since the last call, for workers that share a cache."""
        return self._processor.fresh.take()

    async def run(self) -> None:
        """Tokenise and run batches until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._encode())
            group.create_task(self._runner.run())

    async def _encode(self) -> None:
        """Tokenise what arrived, group by group."""
        while True:
            groups = self._processor.take_unencoded()
            if not groups:
                self._unencoded.clear()
                await self._unencoded.wait()
            for unencoded in groups:
                await self._encode_group(unencoded)

    async def _encode_group(self, unencoded: Unencoded) -> None:
        tokenizer = self._tokenizers[unencoded.lane]
        try:
            tokens = await tokenise(tokenizer, unencoded.works)
        except Exception as error:  # noqa: BLE001 - whatever a tokenizer raises is one text's fault
            self._processor.encoding_failed(unencoded, error)
            self._flush()
        else:
            self._processor.encoded(unencoded, tokens, monotonic())
            self._runner.wake()

    def _flush(self) -> None:
        """Hand out what is finished, and wake whoever has something to do."""
        self._unencoded.set()
        if outcomes := self._processor.take_outcomes():
            self._deliver(outcomes)

    def _make_replicas(self) -> list[Replica]:
        service = self._settings.service
        specs = [model.spec(name) for name, model in self._settings.used_models.items()]
        threads = service.threads or threads_per_replica(service.replicas)
        self._replicas = [
            Replica(specs, threads=threads, watchdog=service.watchdog_ms / 1000)
            for _ in range(service.replicas)
        ]
        return self._replicas

    def _load_tokenizers(self) -> dict[str, Tokenizer]:
        return {
            name: load_tokenizer(resolve(model.source), model.kind)
            for name, model in self._settings.used_models.items()
        }

    def _make_processor(self) -> Processor:
        service = self._settings.service
        plans = {
            name: StreamPlan(stream.model, stream.latency_budget_ms / 1000, stream.late is Late.SHED)
            for name, stream in self._settings.streams.items()
        }
        lanes = [
            make_lane(name, model, service.max_batch_items, self._calibrations.get(name))
            for name, model in self._settings.used_models.items()
        ]
        return Processor(
            plans,
            lanes,
            self.cache,
            self._key_of,
            retry=RetryPolicy(service.max_attempts),
            max_fresh=MAX_FRESH if self._settings.cache.shared else 0,
        )

    def _identity(self, name: str, info: ModelInfo) -> str:
        """Return what two models share only if their outputs for equal work are equal."""
        settings = self._settings.models[name]
        identity = f"{model_identity(info)}/{COMPUTATION_VERSION}"
        match settings.kind:
            case ModelKind.GENERATE:
                return f"{identity}/{settings.max_new_tokens}"
            case ModelKind.TRANSLATE if settings.num_beams > 1:
                return f"{identity}/{settings.num_beams}"
            case _:
                return identity

    def _key_of(self, work: Work) -> bytes:
        return work_key(work, self._identities[work.model])

    def _describe(self) -> None:
        """Log what was loaded."""
        for info in self.infos.values():
            log.info(
                "model_loaded",
                model=info.name,
                source=info.source,
                revision=info.revision,
                precision=info.precision,
                device=info.device,
                agreement=info.agreement,
                batch_tokens=info.batch_tokens,
                threads=info.threads,
            )

    def _show(self) -> None:
        """Let the metrics read what is counted here."""
        metrics, processor, cache = self._metrics, self._processor, self.cache
        lanes = processor.batcher.lanes.values()
        metrics.read_one("cache_misses", lambda: processor.misses)
        metrics.read_one("cache_joins", lambda: processor.joined)
        metrics.read_one("cache_evictions", lambda: cache.evictions)
        metrics.read_one("cache_entries", lambda: len(cache))
        metrics.read_one("cache_bytes", lambda: cache.used_bytes)
        metrics.read_one("replica_restarts", lambda: sum(replica.respawns for replica in self._replicas))
        metrics.read_one(
            "replica_resident_bytes", lambda: sum(replica.resident_bytes for replica in self._replicas)
        )
        metrics.read_one("index_passages", lambda: len(self._index))
        metrics.read("cache_hits", self._hits_by_tier)
        metrics.read("batch_failures", lambda: processor.failures)
        metrics.read("batch_splits", lambda: processor.splits)
        metrics.read("queue_tokens", lambda: {(lane.name,): lane.tokens for lane in lanes})
        metrics.read("model_info", lambda: dict.fromkeys(map(_identifying, self.infos.values()), 1))
        metrics.read(
            "model_agreement_ratio", lambda: {(info.name,): info.agreement for info in self.infos.values()}
        )

    def _hits_by_tier(self) -> dict[tuple[str, ...], int]:
        shared = self.cache.shared_hits
        return {("memory",): self.cache.hits - shared, ("shared",): shared}


def _identifying(info: ModelInfo) -> tuple[str, ...]:
    return info.name, info.revision, info.precision, info.device


async def tokenise(tokenizer: Tokenizer, works: Sequence[Work]) -> Sequence[Tokens]:
    """Return the tokens of each piece; work that takes longer than the way off the event loop takes it."""
    if sum(len(work.text) + len(work.pair or "") for work in works) <= SHORT_CHARS:
        return _encode_all(tokenizer, works)
    return await asyncio.to_thread(_encode_all, tokenizer, works)


def _encode_all(tokenizer: Tokenizer, works: Sequence[Work]) -> Sequence[Tokens]:
    tokens = tokenizer.encode(works)
    if len(tokens) != len(works):
        raise ModelFailedError(f"{len(tokens)} token sequences for {len(works)} texts")
    return tokens
