"""How a record ends: the result or dead letter that is published for it."""

from __future__ import annotations

from stream_infer.errors import INTERNAL, OutcomeError
from stream_infer.flow.pending import Run
from stream_infer.schemas import BatchRun, DeadLetter, Record, Result, ResultBody, Stages, Wait

_MAX_ERROR_CHARS = 1000


def dead_letter(
    record: Record,
    stream: str,
    error: Exception,
    stage: str,
    *,
    request_id: str | None = None,
    attempts: int = 0,
    arrived: float | None = None,
    waits: tuple[Wait, ...] = (),
    batches: tuple[BatchRun, ...] = (),
) -> DeadLetter:
    """Return a record's dead letter; `stage` is decode, admit, prepare, queue, engine, post or publish."""
    return DeadLetter(
        record=record,
        id=record.position if request_id is None else request_id,
        stream=stream,
        reason=error.reason if isinstance(error, OutcomeError) else INTERNAL,
        error=_described(error),
        stage=stage,
        attempts=attempts,
        arrived=arrived,
        waits=waits,
        batches=batches,
    )


def given_up(run: Run, error: Exception, stage: str, attempts: int) -> DeadLetter:
    """Return the dead letter of a run."""
    request = run.request
    return dead_letter(
        request.record,
        request.stream,
        error,
        stage,
        request_id=request.id,
        attempts=attempts,
        arrived=request.arrived,
        waits=run.waits,
        batches=run.batches,
    )


def result(run: Run, body: ResultBody, now: float) -> Result:
    """Return the result of a run that ended at `now`, with where its time went."""
    request = run.request
    bus = max(request.arrived + run.plan.latency_budget - request.deadline, 0.0)
    return Result(
        request.record,
        request.id,
        request.stream,
        body,
        run.plan.model,
        Stages(bus, run.queue, run.batch, run.engine, bus + now - request.arrived),
        now > request.deadline,
        now,
        run.waits,
        run.batches,
    )


def _described(error: Exception) -> str:
    """Return what happened, of bounded length and fit to be encoded: it becomes a header."""
    text = f"{type(error).__name__}: {error}"[:_MAX_ERROR_CHARS]
    return text.encode(errors="backslashreplace").decode()[:_MAX_ERROR_CHARS]
