"""Dead letters found, and what putting them back on their input topics would do."""

from __future__ import annotations

import heapq
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from stream_infer.bus.batches import OutRecord
from stream_infer.bus.client_codec import decode_dead_letter
from stream_infer.bus.codec import DEAD_LETTER_PREFIX
from stream_infer.bus.connection import Connection, connect, wait_until_reachable
from stream_infer.bus.follower import read_present
from stream_infer.bus.lookup import read_at
from stream_infer.bus.replays import decode_entry, encode_original, encode_source, ledger_of
from stream_infer.bus.topics import existing_partition_counts
from stream_infer.config import Settings
from stream_infer.errors import (
    BusError,
    ConfigError,
    MalformedRecordError,
)
from stream_infer.flow.replay import (
    Entry,
    Mark,
    Place,
    Selection,
    decode_mark,
)
from stream_infer.schemas import DeadLetter, Partition, Record
from stream_infer.service.broker import REACH_SECONDS
from stream_infer.service.commands import refuse_embedded

MAX_CHOSEN_BYTES = 256 * 1024 * 1024
"""What one replay holds of keys, values and headers; the rest is left to the next."""
_NOT_THERE = "there is no such dead letter"
_REDACTED = "its value was redacted"


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
    for which there was no memory this time. `redacted` are to be too, by the places of the records that
    they were made of, once these have been read again.
    """

    topic: str
    selection: Selection
    marks: Mapping[int, Mark]
    inputs: Collection[str]
    existing: Collection[str]
    chosen: dict[Place, OutRecord] = field(default_factory=dict)
    redacted: defaultdict[tuple[Partition, int], list[Entry]] = field(
        default_factory=lambda: defaultdict(list)
    )
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

    def sources(self) -> dict[Partition, list[int]]:
        """Return where the records lie that redacted dead letters were made of."""
        found: dict[Partition, list[int]] = {}
        for partition, offset in self.redacted:
            found.setdefault(partition, []).append(offset)
        return found

    def take_source(self, source: Record) -> None:
        """Choose the redacted dead letters that were made of a record, which has been read again."""
        place = Partition(source.topic, source.partition), source.offset
        for entry in self.redacted.pop(place, ()):
            if not entry.stems_from(source):
                self.refused[entry.place] = f"{_REDACTED}, and {source.position} is another record now"
            elif entry.letter is not None and self._has_room(source.size):
                self.chosen[entry.place] = encode_source(entry.letter, source)

    def refuse_redacted(self) -> None:
        """Refuse the redacted dead letters whose records are not there any more."""
        for (partition, offset), entries in self.redacted.items():
            why = f"{_REDACTED}, and {partition.topic}/{partition.partition}/{offset} is not there any more"
            self.refused |= {entry.place: why for entry in entries}
        self.redacted.clear()

    def _choose(self, entry: Entry, size: int) -> None:
        if _is_replayed(self.marks, entry.place):
            self.replayed += 1
        elif obstacle := entry.obstacle(self.inputs, self.existing):
            self.refused[entry.place] = obstacle
        elif entry.letter is not None and self._has_room(size):
            self._hold(entry, entry.letter)

    def _hold(self, entry: Entry, letter: DeadLetter) -> None:
        if entry.is_redacted:
            record = letter.record
            self.redacted[Partition(record.topic, record.partition), record.offset].append(entry)
        else:
            self.chosen[entry.place] = encode_original(letter)

    def _has_room(self, size: int) -> bool:
        """Return whether so many bytes more can be held; what cannot is left."""
        if self._bytes + size > MAX_CHOSEN_BYTES:
            self.left += 1
            return False
        self._bytes += size
        return True


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
    headers = dict(record.headers)
    try:
        return Entry(
            place,
            record.timestamp_ms,
            decode_dead_letter(record),
            is_omitted=f"{DEAD_LETTER_PREFIX}omitted" in headers,
            is_redacted=f"{DEAD_LETTER_PREFIX}redacted" in headers,
            value_sha256=(headers.get(f"{DEAD_LETTER_PREFIX}value_sha256") or b"").decode(errors="replace"),
        )
    except MalformedRecordError as error:
        return Entry(place, record.timestamp_ms, None, str(error))


async def find(settings: Settings, topic: str, selection: Selection, limit: int) -> Listing:
    """Return the newest `limit` of the selected dead letters that the topic holds now."""
    connection = await reach(settings)
    listing = Listing(topic, selection, limit, await read_marks(connection, topic))
    await read_present(connection, [topic], listing.take)
    return listing


async def read_one(settings: Settings, topic: str, place: Place) -> Record:
    """Return the record at a place of the dead-letter topic.

    Raises:
        ConfigError: there is none.
    """
    connection = await reach(settings)
    found: list[Record] = []

    def take(records: list[Record]) -> None:
        found.extend(record for record in records if Place(record.partition, record.offset) == place)

    await read_present(connection, [topic], take)
    if not found:
        raise ConfigError(f"{topic} {place}: {_NOT_THERE}")
    return found[0]


async def prepare_replay(settings: Settings, topic: str, selection: Selection) -> Replay:
    """Return what putting the selected dead letters back would do; nothing is written."""
    connection = await reach(settings)
    inputs = {stream.input for stream in settings.streams.values()}
    existing = await existing_partition_counts(connection, inputs)
    replay = Replay(topic, selection, await read_marks(connection, topic), inputs, existing)
    await read_present(connection, [topic], replay.take)
    replay.refuse_absent()
    await read_at(connection, replay.sources(), replay.take_source)
    replay.refuse_redacted()
    return replay


async def reach(settings: Settings) -> Connection:
    """Return how to reach the broker, once it has answered.

    Raises:
        ConfigError: it is embedded, so nothing outlives a command on it.
        BusError: no broker answered.
    """
    refuse_embedded(settings)
    connection = connect(settings.kafka)
    await wait_until_reachable(connection, REACH_SECONDS)
    return connection


async def read_marks(connection: Connection, topic: str) -> dict[int, Mark]:
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
