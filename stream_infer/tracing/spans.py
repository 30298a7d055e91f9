"""The spans of records and batches: their names, times and attributes.

Names follow OpenTelemetry's semantic conventions for messaging and Kafka. No user text, key or
header's value becomes an attribute, and no error's message, which could quote one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

from stream_infer.schemas import BatchRun, DeadLetter, Outcome, Result
from stream_infer.tracing.context import TraceContext

SYSTEM = "messaging.system"
OPERATION_NAME = "messaging.operation.name"
OPERATION_TYPE = "messaging.operation.type"
DESTINATION = "messaging.destination.name"
PARTITION = "messaging.destination.partition.id"
OFFSET = "messaging.kafka.offset"
TOMBSTONE = "messaging.kafka.message.tombstone"
GROUP = "messaging.consumer.group.name"
BODY_SIZE = "messaging.message.body.size"
MESSAGE_ID = "messaging.message.id"
ERROR_TYPE = "error.type"

KAFKA = "kafka"
PROCESS = "process"

Attribute = str | int | float | bool
ToWall = Callable[[float], int]
"""From monotonic seconds to nanoseconds of the wall clock."""


class Span(NamedTuple):
    """Something that took from `began_ns` to `ended_ns`; `error` is what failed, in one word.

    `consumes` is true of spans that process a message, and `is_local` of a parent in this process.
    """

    name: str
    context: TraceContext
    began_ns: int
    ended_ns: int
    parent: TraceContext | None = None
    is_local: bool = False
    consumes: bool = False
    attributes: Mapping[str, Attribute] = MappingProxyType({})
    links: Sequence[TraceContext] = ()
    error: str | None = None


def record_span(
    outcome: Outcome,
    context: TraceContext,
    parent: TraceContext | None,
    links: Sequence[TraceContext],
    *,
    group: str,
    ended: float,
    to_wall: ToWall,
    with_id: bool = False,
) -> Span:
    """Return the span of a record: from when it was fetched to when its outcome was committed.

    It links to the batches that it ran in; what came from the cache has none. With `with_id` it
    tells the record's id, which may be a header's value.
    """
    arrived = ended if outcome.arrived is None else outcome.arrived
    attributes = _message_attributes(outcome, group) | _own_attributes(outcome)
    if with_id:
        attributes[MESSAGE_ID] = outcome.id
    error = outcome.reason if isinstance(outcome, DeadLetter) else None
    if error is not None:
        attributes[ERROR_TYPE] = error
    return Span(
        f"{PROCESS} {outcome.record.topic}",
        context,
        to_wall(arrived),
        to_wall(ended),
        parent,
        consumes=True,
        attributes=attributes,
        links=links,
        error=error,
    )


def stages_of(outcome: Outcome, ended: float) -> Iterator[tuple[str, float, float]]:
    """Give the stages that a record went through, with when they began and ended.

    A task that asks models more than once waits as often. A stage that took no time is left out.
    """
    for wait in outcome.waits:
        yield "queue", wait.began, wait.queued
        yield "batch", wait.queued, wait.left
        yield "engine", wait.left, wait.ended
    if isinstance(outcome, Result):
        yield "publish", outcome.finished, ended


def batch_span(batch: BatchRun, context: TraceContext, precision: str, to_wall: ToWall) -> Span:
    """Return the span of a batch: a trace of its own, because it belongs to the traces of many."""
    attributes: dict[str, Attribute] = {
        "stream_infer.model": batch.model,
        "stream_infer.precision": precision,
        "stream_infer.batch.items": batch.items,
        "stream_infer.batch.tokens": batch.tokens,
    }
    if batch.error is not None:
        attributes[ERROR_TYPE] = batch.error
    return Span(
        f"run_batch {batch.model}",
        context,
        to_wall(batch.began),
        to_wall(batch.ended),
        attributes=attributes,
        error=batch.error,
    )


def _message_attributes(outcome: Outcome, group: str) -> dict[str, Attribute]:
    record = outcome.record
    attributes: dict[str, Attribute] = {
        SYSTEM: KAFKA,
        OPERATION_NAME: PROCESS,
        OPERATION_TYPE: PROCESS,
        DESTINATION: record.topic,
        PARTITION: str(record.partition),
        OFFSET: record.offset,
        GROUP: group,
    }
    if record.value is None:
        attributes[TOMBSTONE] = True
    else:
        attributes[BODY_SIZE] = len(record.value)
    return attributes


def _own_attributes(outcome: Outcome) -> dict[str, Attribute]:
    attributes: dict[str, Attribute] = {"stream_infer.stream": outcome.stream}
    if isinstance(outcome, DeadLetter):
        attributes["stream_infer.stage"] = outcome.stage
        attributes["stream_infer.attempts"] = outcome.attempts
    else:
        attributes["stream_infer.model"] = outcome.model
        attributes["stream_infer.late"] = outcome.late
        attributes["stream_infer.bus_seconds"] = outcome.stages.bus
    return attributes
