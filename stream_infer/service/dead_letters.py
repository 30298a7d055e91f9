"""Dead letters found, and put back on their input topics exactly once."""

from __future__ import annotations

import asyncio
import heapq
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from itertools import count
from uuid import uuid4

import structlog

from stream_infer.bus.batches import OutRecord
from stream_infer.bus.client_codec import decode_dead_letter
from stream_infer.bus.codec import DEAD_LETTER_PREFIX
from stream_infer.bus.connection import Connection, connect, wait_until_reachable
from stream_infer.bus.follower import read_present
from stream_infer.bus.offsets import CommittedOffsets
from stream_infer.bus.replays import decode_entry, encode_entry, encode_original, ensure_ledger, ledger_of
from stream_infer.bus.topics import existing_partition_counts
from stream_infer.bus.transactions import PartitionProducer, TransactionalProducer
from stream_infer.config import Settings
from stream_infer.errors import (
    BusError,
    ConfigError,
    MalformedRecordError,
    PartitionLostError,
    RecordTooLargeError,
)
from stream_infer.flow.replay import (
    Entry,
    Mark,
    Place,
    Selection,
    Step,
    decode_mark,
    encode_mark,
    plan_replay,
)
from stream_infer.schemas import Record
from stream_infer.service.broker import REACH_SECONDS
from stream_infer.service.commands import refuse_embedded

GROUP = "stream-infer.dead-letters"
"""Begins the transactional id of every replay. It is the same whatever the service's own group is:
services that share a dead-letter topic must fence each other's replays."""

MAX_STEP = 500
"""Dead letters in one transaction."""
MAX_CHOSEN_BYTES = 256 * 1024 * 1024
"""What one replay holds of keys, values and headers; the rest is left to the next."""
MAX_ATTEMPTS = 10
RETRY_PAUSE = 0.5
"""Seconds before the same is published again after the bus refused it."""

_NOT_THERE = "there is no such dead letter"

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class Listing:
    """The newest of the selected dead letters, newest first, and how many there are of each reason."""

    topic: str
    selection: Selection
    limit: int
    marks: Mapping[int, Mark]
    entries: list[Entry] = field(default_factory=list)
    reasons: Counter[str] = field(default_factory=Counter)

    def take(self, records: list[Record]) -> None:
        """Take records of the topic in."""
        found = [entry for entry in map(to_entry, records) if self.selection.takes(entry)]
        self.reasons.update(entry.reason for entry in found)
        self.entries = heapq.nlargest(self.limit, [*self.entries, *found], key=_age)

    def is_replayed(self, entry: Entry) -> bool:
        """Return whether the entry was put back."""
        return _is_replayed(self.marks, entry.place)


@dataclass(slots=True)
class Replay:
    """The selected dead letters of a topic and what becomes of each.

    `chosen` are to be put back; `replayed` counts those that were put back before, and `left` those
    for which there was no memory this time.
    """

    topic: str
    selection: Selection
    marks: Mapping[int, Mark]
    inputs: Collection[str]
    existing: Collection[str]
    chosen: dict[Place, OutRecord] = field(default_factory=dict)
    refused: dict[Place, str] = field(default_factory=dict)
    replayed: int = 0
    left: int = 0
    present: defaultdict[int, list[int]] = field(default_factory=lambda: defaultdict(list))
    _bytes: int = 0

    def take(self, records: list[Record]) -> None:
        """Take records of the topic in."""
        for record in records:
            self.present[record.partition].append(record.offset)
            entry = to_entry(record)
            if self.selection.takes(entry):
                self._choose(entry, record.size)

    def refuse_absent(self) -> None:
        """Refuse the places asked for at which the topic holds nothing."""
        held = {number: set(offsets) for number, offsets in self.present.items()}
        for place in sorted(self.selection.places):
            if place.offset not in held.get(place.partition, ()):
                self.refused[place] = _NOT_THERE

    def _choose(self, entry: Entry, size: int) -> None:
        if _is_replayed(self.marks, entry.place):
            self.replayed += 1
        elif obstacle := entry.obstacle(self.inputs, self.existing):
            self.refused[entry.place] = obstacle
        elif entry.letter is None or self._bytes + size > MAX_CHOSEN_BYTES:
            self.left += 1
        else:
            self._bytes += size
            self.chosen[entry.place] = encode_original(entry.letter)


@dataclass(slots=True)
class Report:
    """What a replay did; `interruption` says why it ended before its end, if it did."""

    put_back: list[Place] = field(default_factory=list)
    refused: dict[Place, str] = field(default_factory=dict)
    interruption: str = ""


def topic_of(settings: Settings, asked: str | None) -> str:
    """Return the dead-letter topic that is meant.

    Raises:
        ConfigError: the streams have several and none was asked for, or another was.
    """
    topics = sorted({stream.dead_letters for stream in settings.streams.values()})
    if asked is None and len(topics) == 1:
        return topics[0]
    if asked not in topics:
        raise ConfigError(f"--topic: the dead-letter topics of these settings are {', '.join(topics)}")
    return asked


def to_entry(record: Record) -> Entry:
    """Return a record of the dead-letter topic, whatever it holds."""
    place = Place(record.partition, record.offset)
    is_omitted = any(name == f"{DEAD_LETTER_PREFIX}omitted" for name, _ in record.headers)
    try:
        return Entry(place, record.timestamp_ms, decode_dead_letter(record), is_omitted=is_omitted)
    except MalformedRecordError as error:
        return Entry(place, record.timestamp_ms, None, str(error))


async def find(settings: Settings, topic: str, selection: Selection, limit: int) -> Listing:
    """Return the newest `limit` of the selected dead letters that the topic holds now."""
    connection = await _reach(settings)
    listing = Listing(topic, selection, limit, await _marks(connection, topic))
    await read_present(connection, [topic], listing.take)
    return listing


async def read_one(settings: Settings, topic: str, place: Place) -> Record:
    """Return the record at a place of the dead-letter topic.

    Raises:
        ConfigError: there is none.
    """
    connection = await _reach(settings)
    found: list[Record] = []

    def take(records: list[Record]) -> None:
        found.extend(record for record in records if Place(record.partition, record.offset) == place)

    await read_present(connection, [topic], take)
    if not found:
        raise ConfigError(f"{topic} {place}: {_NOT_THERE}")
    return found[0]


async def prepare_replay(settings: Settings, topic: str, selection: Selection) -> Replay:
    """Return what putting the selected dead letters back would do; nothing is written."""
    connection = await _reach(settings)
    inputs = {stream.input for stream in settings.streams.values()}
    existing = await existing_partition_counts(connection, inputs)
    replay = Replay(topic, selection, await _marks(connection, topic), inputs, existing)
    await read_present(connection, [topic], replay.take)
    replay.refuse_absent()
    return replay


async def put_back(settings: Settings, replay: Replay) -> Report:
    """Put the chosen dead letters back, each once however often and wherever this is cut off.

    1. Fence other replays of the topic, which ends their open transaction.
    2. Read the ledger: from here on only this replay can write it.
    3. Put back what the ledger does not have, in transactions that carry the ledger's next entry.
    """
    connection = await _reach(settings)
    await ensure_ledger(connection, replay.topic)
    async with CommittedOffsets(connection, GROUP) as offsets:
        ledger = ledger_of(replay.topic)
        producer = TransactionalProducer(connection, offsets, group=GROUP, partition=ledger)
        try:
            committed = await producer.open()
            marks = await _marks(connection, replay.topic)
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
            except (PartitionLostError, RecordTooLargeError):
                raise
            except BusError as error:
                if attempt == MAX_ATTEMPTS:
                    raise
                log.warning("replay_refused", attempt=attempt, error=str(error))
                await asyncio.sleep(RETRY_PAUSE)
            else:
                return


async def _reach(settings: Settings) -> Connection:
    refuse_embedded(settings)
    connection = connect(settings.kafka)
    await wait_until_reachable(connection, REACH_SECONDS)
    return connection


async def _marks(connection: Connection, topic: str) -> dict[int, Mark]:
    """Return what the ledger says of each partition; nothing where no replay has made one."""
    ledger = ledger_of(topic).topic
    marks: dict[int, Mark] = {}

    def take(records: list[Record]) -> None:
        marks.update(_mark_in(record) for record in records)

    if await existing_partition_counts(connection, [ledger]):
        await read_present(connection, [ledger], take)
    return marks


def _mark_in(record: Record) -> tuple[int, Mark]:
    try:
        partition, fields = decode_entry(record)
        return partition, decode_mark(fields)
    except (MalformedRecordError, ValueError) as error:
        raise BusError(f"{record.position}: not an entry of a ledger of replays: {error}") from error


def _is_replayed(marks: Mapping[int, Mark], place: Place) -> bool:
    return place.partition in marks and marks[place.partition].covers(place.offset)


def _age(entry: Entry) -> tuple[int, Place]:
    return entry.timestamp_ms, entry.place
