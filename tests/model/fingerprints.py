"""What a process remembers: two that remember the same go on alike.

It looks behind the curtain of owners, partitions and producers, for a state that is told from no other would
be gone on from again and again. Numbers that only ever grow are left out, or counted from where they stand.
"""

from __future__ import annotations

import asyncio
from collections.abc import Hashable
from typing import Any

from stream_infer.bus.transactions import TransactionalProducer
from stream_infer.flow.partition import InputPartition
from stream_infer.service.partitions import PartitionOwner
from tests.model.network import Request
from tests.model.simulated_bus import SimulatedBus, Tag
from tests.model.simulated_worker import SimulatedWorker


def of_worker(worker: SimulatedWorker, bus: SimulatedBus) -> Hashable:
    """Return what decides how a process goes on."""
    return (
        tuple(worker.source.positions.values()),
        tuple(record.offset for record in worker.in_flight),
        tuple(of_request(request, bus) for request in worker.network.requests.values()),
        (_whereabouts(worker.taking), worker.turns, worker.admits_for_another) if worker.loop.turn else None,
        tuple(
            (_whereabouts(tenure.task), _whereabouts(tenure.release), _of_owner(tenure.owner))
            for tenure in worker.tenures.values()
        ),
    )


def of_request(request: Request[Any], bus: SimulatedBus) -> Hashable:
    """Return what a request can do."""
    kind, tag = request.tag
    if not isinstance(tag, Tag):
        return kind, request.is_awaited, tag
    return kind, request.is_awaited, bus.age(tag)


def _of_owner(owner: PartitionOwner) -> Hashable:
    return (
        owner._rewound_to,
        owner._drained.is_set(),
        _of_producer(owner._producer),
        _of_partition(owner._state) if owner._state else None,
    )


def _of_producer(producer: Any) -> Hashable:
    assert isinstance(producer, TransactionalProducer)
    return producer._committed, producer._session is None


def _of_partition(state: InputPartition) -> Hashable:
    tracker, gate, publication = state._tracker, state._gate, state._open
    return (
        (tracker.position, tracker._next, tuple(tracker._kept)),
        (tuple(tracker._blocks.items()), tuple(sorted(tracker._end_of.items()))),
        tuple((key, tuple(queue)) for key, queue in gate._queues.items()),
        frozenset(gate._finished),
        _offsets(state._publishable),
        (_offsets(publication.outcomes), publication.position, publication.metadata) if publication else None,
    )


def _offsets(outcomes: Any) -> tuple[int, ...]:
    return tuple(outcome.record.offset for outcome in outcomes)


def _whereabouts(task: asyncio.Task[None] | None) -> tuple[tuple[str, int], ...]:
    """Return where a task waits: each coroutine on the way there, and its instruction."""
    found = []
    waiting: Any = task and task.get_coro()
    while waiting is not None and hasattr(waiting, "cr_frame"):
        if waiting.cr_frame is not None:
            found.append((waiting.cr_code.co_qualname, waiting.cr_frame.f_lasti))
        waiting = waiting.cr_await
    return tuple(found)
