"""Drives requests through their recipes: cache, equal work in flight, tokenising, batches, outcome."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from math import inf
from typing import Protocol, cast

from stream_infer.errors import EngineError, LateError, ModelFailedError
from stream_infer.flow.batcher import Batcher
from stream_infer.flow.fresh import FreshOutputs
from stream_infer.flow.lane import Lane
from stream_infer.flow.outcomes import given_up, result
from stream_infer.flow.pending import Batch, Pending, Place, Run, StreamPlan, Unencoded
from stream_infer.flow.retry import RetryPolicy, halves
from stream_infer.schemas import (
    BatchRun,
    Outcome,
    Output,
    Partition,
    Recipe,
    Record,
    Request,
    Tokens,
    Wait,
    Work,
)

_MAX_UNENCODED = 256


class OutputCache(Protocol):
    """Outputs by work key; bounded, so what was put may be gone."""

    def get(self, key: bytes, /) -> Output | None:
        """Return the output, or None."""

    def put(self, key: bytes, output: Output, /) -> None:
        """Keep the output."""


class Processor:
    """Turns requests into outcomes; the shell brings tokens and outputs and takes what is ready.

    The shell's loop: `submit` what arrived; tokenise what `take_unencoded` gives and return it with
    `encoded` (or `encoding_failed`); `shed`, run what `next_batch` gives and return it with `batch_done` or
    `batch_failed`; publish what `take_outcomes` and `fresh.take` give, and say what was `committed`. Each
    is synchronous.
    """

    def __init__(
        self,
        streams: Mapping[str, StreamPlan],
        lanes: Iterable[Lane],
        cache: OutputCache,
        key_of: Callable[[Work], bytes],
        *,
        retry: RetryPolicy | None = None,
        max_fresh: int = 4096,
    ) -> None:
        """`max_fresh` bounds the outputs kept for whom `fresh` is to tell of them."""
        self.batcher = Batcher(lanes)
        self.hits = 0
        """Pieces of work found in the cache."""
        self.misses = 0
        """Pieces of work that a model had to run."""
        self.joined = 0
        """Pieces of work that were in flight already."""
        self.fresh = FreshOutputs(max_fresh)
        """Outputs that models made, for the shared cache."""
        self.failures_in_a_row = 0
        """Batches that failed since one last passed; many mean the engine is at fault, not a record."""
        self.failures: Counter[tuple[str, ...]] = Counter()
        """Batches that failed, by lane and reason."""
        self.splits: Counter[tuple[str, ...]] = Counter()
        """Those of them that were halved, because they held more than one piece."""
        self._streams = streams
        self._sheds = any(plan.sheds_late for plan in streams.values())
        self._cache = cache
        self._key_of = key_of
        self._retry = retry or RetryPolicy()
        self._in_flight: dict[bytes, Pending] = {}
        self._unencoded: defaultdict[str, list[Pending]] = defaultdict(list)
        self._split: list[Unencoded] = []
        self._runs: dict[tuple[str, int], set[Run]] = {}
        self._outcomes: list[Outcome] = []
        self._ran = 0

    def submit(self, request: Request, recipe: Recipe, now: float) -> None:
        """Start a request; if the cache holds all it needs, its outcome is ready on return."""
        plan = self._streams[request.stream]
        if plan.sheds_late and request.deadline < now:
            error = LateError("the deadline had passed on arrival")
            self._give_up(Run(request, recipe, plan), error, "admit")
            return
        self._advance(Run(request, recipe, plan), None, now)

    def encoded(self, unencoded: Unencoded, tokens: Sequence[Tokens], now: float) -> None:
        """Queue pieces that were tokenised, in the order in which they were given."""
        lane = self.batcher.lanes[unencoded.lane]
        for item, encoding in list(zip(unencoded.items, tokens, strict=True)):
            if item.place is not Place.GONE:
                item.tokens = encoding
                item.size = len(encoding.ids)
                item.queued_at = now
                lane.add(item)

    def encoding_failed(self, unencoded: Unencoded, error: Exception) -> None:
        """Halve what the tokenizer raised on, until a single piece is found to be at fault."""
        if len(unencoded.items) > 1:
            self._split += [Unencoded(unencoded.lane, half) for half in halves(unencoded.items)]
            return
        item = unencoded.items[0]
        self._forget(item)
        self._fail(item, list(item.waiters), error, "prepare")

    def batch_done(self, batch: Batch, outputs: Sequence[Output], now: float, took: float) -> None:
        """Hand out the outputs of a batch that ran for `took` seconds."""
        if len(outputs) != len(batch.items):
            error = ModelFailedError(f"{len(outputs)} outputs for {len(batch.items)} inputs")
            self.batch_failed(batch, error, now)
            return
        self.failures_in_a_row = 0
        lane = self.batcher.lanes[batch.lane]
        lane.cost.observe(batch.tokens, took)
        lane.budget.recover()
        for item, output in zip(batch.items, outputs, strict=True):
            self._cache.put(item.key, output)
            self.fresh.keep(item.key, output)
            self._forget(item)
        ran = self._note(batch, now)
        for item, output in zip(batch.items, outputs, strict=True):
            for run in list(item.waiters):
                run.ran_in(ran)
                self._deliver(run, item, output, now, took)

    def batch_failed(self, batch: Batch, error: EngineError, now: float) -> None:
        """Set the pieces of a failed batch apart in halves, or judge the one that ran alone."""
        self.failures_in_a_row += 1
        self.failures[batch.lane, error.reason] += 1
        lane = self.batcher.lanes[batch.lane]
        ran = self._note(batch, now, error.reason)
        for item in batch.items:
            item.failures += 1
            for run in item.waiters:
                run.ran_in(ran)
        if len(batch.items) == 1:
            self._judge(lane, batch.items[0], error, now)
            return
        self.splits[batch.lane, error.reason] += 1
        if error.retriable:
            lane.budget.shrink(batch.tokens)
        for item in batch.items:
            if not item.waiters:
                self._forget(item)
        lane.add_parts([item for item in half if item.waiters] for half in halves(batch.items))

    def drop(self, partition: Partition) -> None:
        """Forget all requests of a partition that was lost; others that wait for equal work keep it."""
        lost = (partition.topic, partition.partition)
        for run in self._runs.pop(lost, ()):
            self._leave(run)
        self._outcomes = [outcome for outcome in self._outcomes if _origin(outcome.record) != lost]

    def take_unencoded(self) -> list[Unencoded]:
        """Return the pieces to tokenise, each once, in groups that belong to one lane."""
        groups, self._split = self._split, []
        for lane, items in self._unencoded.items():
            wanted = [item for item in items if item.place is not Place.GONE]
            groups += [
                Unencoded(lane, tuple(wanted[start : start + _MAX_UNENCODED]))
                for start in range(0, len(wanted), _MAX_UNENCODED)
            ]
        self._unencoded.clear()
        return groups

    def next_batch(self, now: float, *, idle: bool, within: float = inf) -> Batch | None:
        """Return a batch to run, if one must leave or may because the engine is idle; see `Batcher`."""
        return self.batcher.next_batch(now, idle=idle, within=within)

    def next_wake(self, now: float) -> float | None:
        """Return when to call `next_batch` again though the engine is not idle; None if nothing waits."""
        return self.batcher.next_wake(now)

    def shed(self, now: float) -> bool:
        """Give up what would be too late, where streams want that, and return whether there was any.

        Only while more waits than the next batch holds: whoever is given up makes room for others.
        """
        if not self._sheds:
            return False
        before = len(self._outcomes)
        for lane in self.batcher.lanes.values():
            for item in lane.hopeless(now, _may_shed):
                self._shed_waiters(lane, item, now + lane.delay.likely)
        return len(self._outcomes) > before

    def committed(self, outcomes: Iterable[Outcome], now: float) -> None:
        """Learn how long it took from when the batches of outcomes had left until they were committed."""
        if not self._sheds:
            return
        longest: dict[str, float] = {}
        for batch in (outcome.batches[-1] for outcome in outcomes if outcome.batches):
            longest[batch.model] = max(longest.get(batch.model, 0.0), now - batch.began)
        for lane, seconds in longest.items():
            self.batcher.lanes[lane].delay.observe(seconds)

    def take_outcomes(self) -> list[Outcome]:
        """Return the outcomes since the last call, each once."""
        outcomes, self._outcomes = self._outcomes, []
        return outcomes

    def _advance(self, run: Run, outputs: Sequence[Output] | None, now: float) -> None:
        """Drive the recipe until it ends or waits for a model."""
        stage = "prepare" if outputs is None else "post"
        try:
            while True:
                works = run.recipe.send(outputs)  # type: ignore[arg-type]  # None starts a generator
                outputs = self._look_up(run, works, now)
                if outputs is None:
                    return
                stage = "post"
        except StopIteration as end:
            self._outcomes.append(result(run, end.value, now))
        except Exception as error:  # noqa: BLE001 - a fault in a recipe must not take its neighbours down
            self._give_up(run, error, stage)
        if run.has_waited:
            self._untrack(run)

    def _look_up(self, run: Run, works: Sequence[Work], now: float) -> list[Output] | None:
        """Return the outputs if the cache holds them all; otherwise the run waits for what is missing."""
        outputs: list[Output | None] = []
        missing: list[tuple[bytes, Work, int]] = []
        for work in works:
            key = self._key_of(work)
            output = self._cache.get(key)
            if output is None:
                if work.model not in self.batcher.lanes:
                    raise LookupError(f"no model is called {work.model!r}")
                missing.append((key, work, len(outputs)))
            outputs.append(output)
        self.hits += len(outputs) - len(missing)
        if not missing:
            return cast("list[Output]", outputs)
        run.outputs = outputs
        run.since = now
        run.has_waited = True
        self._runs.setdefault(_origin(run.request.record), set()).add(run)
        for key, work, index in missing:
            self._wait(run, key, work, index)
        return None

    def _wait(self, run: Run, key: bytes, work: Work, index: int) -> None:
        """Let the run wait for equal work in flight, or else for a new piece."""
        deadline = run.request.deadline
        item = self._in_flight.get(key)
        if item is None:
            item = self._in_flight[key] = Pending(key, work, deadline)
            self._unencoded[work.model].append(item)
            self.misses += 1
        else:
            self.batcher.lanes[work.model].hasten(item, deadline)
            self.joined += 1
        item.waiters.setdefault(run, item.attempts)
        run.waits_for.setdefault(item, []).append(index)

    def _deliver(self, run: Run, item: Pending, output: Output, now: float, took: float) -> None:
        for index in run.waits_for.pop(item):
            run.outputs[index] = output
        if run.waits_for:
            return
        elapsed = now - run.since
        engine = min(took, elapsed)
        queue = min(max(item.queued_at - run.since, 0.0), elapsed - engine)
        run.engine += engine
        run.queue += queue
        run.batch += elapsed - engine - queue
        run.waits += (Wait(run.since, run.since + queue, now - engine, now),)
        self._advance(run, cast("list[Output]", run.outputs), now)

    def _judge(self, lane: Lane, item: Pending, error: EngineError, now: float) -> None:
        """Give up the requests whose piece has failed alone often enough; the others try it again."""
        item.attempts += 1
        self._fail(item, self._retry.given_up(item, error, now), error, "engine")
        if item.waiters:
            lane.rest(item, self._retry.next_attempt(item, now))
        else:
            self._forget(item)

    def _fail(self, item: Pending, runs: Iterable[Run], error: Exception, stage: str) -> None:
        for run in runs:
            self._leave(run)
            self._untrack(run)
            self._give_up(run, error, stage, item.failures)

    def _shed_waiters(self, lane: Lane, item: Pending, horizon: float) -> None:
        """Give up the requests that shed and are due before `horizon`; the others keep their piece."""
        hopeless = [run for run in item.waiters if run.plan.sheds_late and run.request.deadline < horizon]
        error = LateError("too many waited for the model: it would have been too late")
        self._fail(item, hopeless, error, "queue")
        if item.waiters:
            lane.set_deadline(item, min(run.request.deadline for run in item.waiters))

    def _give_up(self, run: Run, error: Exception, stage: str, attempts: int = 0) -> None:
        self._outcomes.append(given_up(run, error, stage, attempts))

    def _note(self, batch: Batch, now: float, error: str | None = None) -> BatchRun:
        """Return what is told of a batch that ended; its records carry it on."""
        self._ran += 1
        return BatchRun(self._ran, batch.lane, len(batch.items), batch.tokens, batch.left, now, error)

    def _leave(self, run: Run) -> None:
        """Stop waiting; pieces that nobody waits for any more are forgotten unless they are running."""
        for item in run.waits_for:
            del item.waiters[run]
            if not item.waiters and item.place is not Place.RUNNING:
                self.batcher.lanes[item.work.model].discard(item)
                self._forget(item)
        run.waits_for.clear()

    def _untrack(self, run: Run) -> None:
        runs = self._runs.get(_origin(run.request.record))
        if runs:
            runs.discard(run)

    def _forget(self, item: Pending) -> None:
        if self._in_flight.get(item.key) is item:
            del self._in_flight[item.key]


def _may_shed(item: Pending) -> bool:
    return any(run.plan.sheds_late for run in item.waiters)


def _origin(record: Record) -> tuple[str, int]:
    return record.topic, record.partition
