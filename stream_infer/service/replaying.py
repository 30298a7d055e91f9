"""Dead letters put back on their input topics exactly once."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import count
from uuid import uuid4

import structlog

from stream_infer.bus.batches import OutRecord
from stream_infer.bus.offsets import CommittedOffsets
from stream_infer.bus.replays import encode_entry, ensure_ledger, ledger_of
from stream_infer.bus.transactions import PartitionProducer, TransactionalProducer
from stream_infer.config import Settings
from stream_infer.errors import AccessRefusedError, BusError, PartitionLostError, RecordTooLargeError
from stream_infer.flow.replay import Mark, Place, Step, encode_mark, plan_replay
from stream_infer.service.dead_letters import Replay, reach, read_marks

GROUP = "stream-infer.dead-letters"
"""Begins the transactional id of every replay. It is the same whatever the service's own group is:
services that share a dead-letter topic must fence each other's replays."""

MAX_STEP = 500
"""Dead letters in one transaction."""
MAX_ATTEMPTS = 10
RETRY_PAUSE = 0.5
"""Seconds before the same is published again after the bus refused it."""

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class Report:
    """What a replay did; `interruption` says why it ended before its end, if it did."""

    put_back: list[Place] = field(default_factory=list)
    refused: dict[Place, str] = field(default_factory=dict)
    interruption: str = ""


async def put_back(settings: Settings, replay: Replay) -> Report:
    """Put the chosen dead letters back, each once however often and wherever this is cut off.

    1. Fence other replays of the topic, which ends their open transaction.
    2. Read the ledger: from here on only this replay can write it.
    3. Put back what the ledger does not have, in transactions that carry the ledger's next entry.
    """
    connection = await reach(settings)
    await ensure_ledger(connection, replay.topic)
    async with CommittedOffsets(connection, GROUP) as offsets:
        ledger = ledger_of(replay.topic)
        producer = TransactionalProducer(connection, offsets, group=GROUP, partition=ledger)
        try:
            committed = await producer.open()
            marks = await read_marks(connection, replay.topic)
            return await _Replayer(producer, replay, (committed.offset or 0) + 1).run(marks)
        finally:
            await producer.close()


class _Replayer:
    """Writes the steps of one replay, through a producer that has fenced all others.

    The group's position counts transactions and its metadata is this replay's own word: they let the
    producer tell whether a transaction whose answer was lost is its own, and are no memory.
    """

    def __init__(self, producer: PartitionProducer, replay: Replay, position: int) -> None:
        self._producer = producer
        self._replay = replay
        self._positions = count(position)
        self._token = uuid4().hex
        self._report = Report()

    async def run(self, marks: Mapping[int, Mark]) -> Report:
        """Put back what the marks do not cover, as far as it goes."""
        try:
            for partition in sorted({place.partition for place in self._replay.chosen}):
                await self._replay_partition(partition, marks.get(partition, Mark()))
        except PartitionLostError:
            self._report.interruption = f"another replay of {self._replay.topic} took over"
        except BusError as error:
            self._report.interruption = str(error)
        return self._report

    async def _replay_partition(self, partition: int, mark: Mark) -> None:
        """Put back what can be; whenever something is refused, the rest is planned anew without it."""
        chosen = {place.offset for place in self._replay.chosen if place.partition == partition}
        refused: tuple[int, ...] = (-1,)
        while refused:
            refused = ()
            for step in plan_replay(self._replay.present[partition], chosen, mark, MAX_STEP):
                if refused := await self._write(partition, step):
                    chosen.difference_update(refused)
                    break
                mark = step.mark

    async def _write(self, partition: int, step: Step) -> tuple[int, ...]:
        """Commit one step; or return those of its offsets that the broker refuses, nothing being written."""
        places = [Place(partition, offset) for offset in step.offsets]
        records = [self._replay.chosen[place] for place in places]
        entry = encode_entry(self._replay.topic, partition, encode_mark(step.mark))
        try:
            await self._publish([*records, entry])
        except RecordTooLargeError as error:
            return self._refuse(places, error.index)
        self._report.put_back += places
        return ()

    def _refuse(self, places: list[Place], index: int) -> tuple[int, ...]:
        """Refuse the record at `index`; behind the last it is the ledger's, and no place can go."""
        if index < len(places):
            places, why = [places[index]], "the broker refuses it for its size"
        else:
            why = "the ledger has no room: too many gaps lie between what was put back"
        self._report.refused |= dict.fromkeys(places, why)
        return tuple(place.offset for place in places)

    async def _publish(self, records: list[OutRecord]) -> None:
        position = next(self._positions)
        for attempt in count(1):
            try:
                await self._producer.publish(records, position, self._token)
            except (AccessRefusedError, PartitionLostError, RecordTooLargeError):
                raise
            except BusError as error:
                if attempt == MAX_ATTEMPTS:
                    raise
                log.warning("replay_refused", attempt=attempt, error=str(error))
                await asyncio.sleep(RETRY_PAUSE)
            else:
                return
