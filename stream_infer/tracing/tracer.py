"""Traces of publications: who is traced, under which ids, and the spans once all is committed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

from stream_infer.schemas import BatchRun, Outcome
from stream_infer.tracing.context import TRACEPARENT, TRACESTATE, TraceContext, parent_of
from stream_infer.tracing.sampling import Sampler
from stream_infer.tracing.spans import Span, ToWall, batch_span, record_span, stages_of

MAX_BATCHES = 4096
"""Batches whose span is remembered. Records of an older one make it a second span."""

Headers = list[tuple[str, bytes | None]]
Draw = Callable[[int], int]
"""Gives a random number of so many bits."""


class Traced(NamedTuple):
    """The span of a record, and the one that its headers name as its parent."""

    context: TraceContext
    parent: TraceContext | None


class Tracer:
    """Makes the spans of one worker, after the fact: nothing is done for who is not traced."""

    def __init__(
        self,
        sampler: Sampler,
        export: Callable[[Sequence[Span]], None],
        draw: Draw,
        *,
        group: str,
        precisions: Mapping[str, str],
        with_ids: bool = False,
    ) -> None:
        """`precisions` are those of the models by name, and `export` takes spans without waiting."""
        self._sampler = sampler
        self._export = export
        self._draw = draw
        self._group = group
        self._precisions = precisions
        self._with_ids = with_ids
        self._batches: dict[int, TraceContext] = {}

    def begin(self, outcome: Outcome, now: float) -> Traced | None:
        """Return the span that the outcome's record gets, or None if it gets none."""
        parent = parent_of(outcome.record.headers)
        trace_id = parent.trace_id if parent else self._draw(128) or 1
        if not self._sampler.is_sampled(outcome, parent, trace_id, now):
            return None
        return Traced(self._context(trace_id, parent.tracestate if parent else ""), parent)

    def finish(
        self,
        traced: Mapping[int, Traced],
        outcomes: Sequence[Outcome],
        ended: float,
        to_wall: ToWall,
    ) -> None:
        """Export what is told of outcomes that were committed at `ended`, by their places."""
        spans: list[Span] = []
        for place, (context, parent) in traced.items():
            outcome = outcomes[place]
            links = [self._batch(batch, spans, to_wall) for batch in outcome.batches]
            spans.append(
                record_span(
                    outcome,
                    context,
                    parent,
                    links,
                    group=self._group,
                    ended=ended,
                    to_wall=to_wall,
                    with_id=self._with_ids,
                )
            )
            spans += self._stages(outcome, context, ended, to_wall)
        self._export(spans)

    def _stages(
        self, outcome: Outcome, parent: TraceContext, ended: float, to_wall: ToWall
    ) -> Iterator[Span]:
        for name, began, end in stages_of(outcome, ended):
            if end > began:
                context = self._context(parent.trace_id, parent.tracestate)
                yield Span(name, context, to_wall(began), to_wall(end), parent, is_local=True)

    def _batch(self, batch: BatchRun, spans: list[Span], to_wall: ToWall) -> TraceContext:
        """Return the batch's span, which is made for the first traced record that ran in it."""
        context = self._batches.get(batch.number)
        if context is None:
            context = self._batches[batch.number] = self._context(self._draw(128) or 1)
            spans.append(batch_span(batch, context, self._precisions[batch.model], to_wall))
            if len(self._batches) > MAX_BATCHES:
                del self._batches[next(iter(self._batches))]
        return context

    def _context(self, trace_id: int, tracestate: str = "") -> TraceContext:
        return TraceContext(trace_id, self._draw(64) or 1, is_sampled=True, tracestate=tracestate)


class PublicationTrace:
    """Follows the outcomes of one publication from before it is written until it is committed.

    Each outcome is decided on once, so that the same ids go out however often it is published.
    """

    def __init__(self, tracer: Tracer) -> None:
        self._tracer = tracer
        self._traced: dict[int, Traced] = {}

    def stamp(self, place: int, outcome: Outcome, headers: Headers, now: float) -> None:
        """Make the record that goes out name our span as its parent, if its input is traced.

        Call it again for a record that takes the place of another.
        """
        traced = self._traced.get(place) or self._tracer.begin(outcome, now)
        if traced is None:
            return
        self._traced[place] = traced
        context = traced.context
        headers[:] = [header for header in headers if header[0] not in {TRACEPARENT, TRACESTATE}]
        headers.append((TRACEPARENT, context.traceparent))
        if context.tracestate:
            headers.append((TRACESTATE, context.tracestate.encode()))

    def committed(self, outcomes: Sequence[Outcome], now: float, wall_ns: int) -> None:
        """Export the spans; `now` and `wall_ns` are the same moment on both clocks."""
        if self._traced:
            self._tracer.finish(
                self._traced, outcomes, now, lambda moment: wall_ns - int((now - moment) * 1e9)
            )
