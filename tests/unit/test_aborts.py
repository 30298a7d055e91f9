"""Whatever a broker says of old aborts, a reader sees exactly what was committed."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import chain, repeat
from typing import Any

from aiokafka import TopicPartition
from aiokafka.consumer.fetcher import READ_COMMITTED, PartitionRecords
from aiokafka.record.default_records import _DefaultRecordBatchBuilderPy
from aiokafka.record.memory_records import MemoryRecords
from hypothesis import given
from hypothesis import strategies as st

from stream_infer.bus.aborts import MAX_REMEMBERED, Ended, current_aborts

_ATTRIBUTES = 22
_CONTROL = 0x20
NOTHING = repeat(0)


@dataclass(frozen=True)
class Entry:
    """One batch of a log: a record of a producer, or the marker that ends its transaction."""

    producer: int
    offset: int
    commits: bool | None = None

    @property
    def data(self) -> bytes:
        """The batch as it lies on disk."""
        return self.offset.to_bytes(8, "big") + batch(self.producer, self.commits)[8:]


@cache
def batch(producer: int, commits: bool | None) -> bytes:  # noqa: FBT001 - None stands for a record
    builder = _DefaultRecordBatchBuilderPy(
        2, 0, is_transactional=1, producer_id=producer, producer_epoch=0, base_sequence=0, batch_size=10_000
    )
    key = None if commits is None else b"\x00\x00" + (b"\x00\x01" if commits else b"\x00\x00")
    builder.append(0, 1_000, key, b"value", [])
    data = builder.build()
    if commits is not None:
        data[_ATTRIBUTES] |= _CONTROL
    return bytes(data)


def make_log(moves: list[tuple[int, str]]) -> list[Entry]:
    """Return the log of producers that write, commit and abort; what is open at its end is committed."""
    log: list[Entry] = []
    opened: set[int] = set()
    for producer, move in [*moves, *((producer, "commit") for producer in (1, 2, 3))]:
        if move == "write":
            opened.add(producer)
            log.append(Entry(producer, len(log)))
        elif producer in opened:
            opened.remove(producer)
            log.append(Entry(producer, len(log), commits=move == "commit"))
    return log


def aborted_transactions(log: list[Entry]) -> list[tuple[int, int, int]]:
    """Return producer, first offset and marker of every aborted transaction."""
    found = []
    first: dict[int, int] = {}
    for entry in log:
        if entry.commits is None:
            first.setdefault(entry.producer, entry.offset)
        elif (began := first.pop(entry.producer, None)) is not None and not entry.commits:
            found.append((entry.producer, began, entry.offset))
    return found


def committed(log: list[Entry]) -> list[int]:
    """Return the offsets that a reader has to see."""
    ends = [entry for entry in log if entry.commits is not None]
    return [
        entry.offset
        for entry in log
        if entry.commits is None
        and next(end.commits for end in ends if end.producer == entry.producer and end.offset > entry.offset)
    ]


def read(
    log: list[Entry],
    chunks: Iterator[int],
    *,
    names_ended: Iterator[bool],
    position: int = 0,
    thrown_away: Iterator[int] = NOTHING,
) -> list[int]:
    """Return what a reader sees who fetches so many batches at a time, from a position on.

    Of each fetch so many batches at its end are thrown away and fetched again, as a pause or a
    rebalance does it. Now and then the broker names transactions that ended before what it is asked.
    """
    seen: list[int] = []
    ended: Ended = {}
    while position < len(log):
        chunk = log[position : position + next(chunks)]
        names_all = next(names_ended)
        aborted = [
            (producer, began)
            for producer, began, marker in aborted_transactions(log)
            if began <= chunk[-1].offset and (names_all or marker >= position)
        ]
        data = b"".join(entry.data for entry in chunk)
        heeded = current_aborts(aborted, data, position, ended)
        records: Any = PartitionRecords(
            TopicPartition("t", 0),
            MemoryRecords(data),
            heeded,
            position,
            None,
            None,
            False,
            READ_COMMITTED,
        )
        following = max(position + 1, chunk[-1].offset + 1 - next(thrown_away))
        seen += [record.offset for record in records if record.offset < following]
        position = following
    return seen


LOGS = st.lists(
    st.tuples(st.integers(1, 3), st.sampled_from(["write", "write", "commit", "abort"])), max_size=25
).map(make_log)


CHUNKS = st.lists(st.integers(1, 6), min_size=30, max_size=30)
NAMES = st.just([False] * 30) | st.just([True] * 30) | st.lists(st.booleans(), min_size=30, max_size=30)


@given(log=LOGS, chunks=CHUNKS, names=NAMES)
def test_a_reader_sees_what_was_committed(log: list[Entry], chunks: list[int], names: list[bool]) -> None:
    assert committed(log) == read(log, iter(chunks), names_ended=iter(names))


@given(
    log=LOGS,
    chunks=CHUNKS,
    names=NAMES,
    thrown_away=st.lists(st.integers(0, 5), min_size=30, max_size=30),
)
def test_what_is_thrown_away_is_read_again(
    log: list[Entry], chunks: list[int], names: list[bool], thrown_away: list[int]
) -> None:
    """A marker that was fetched is not yet a marker that was passed."""
    assert committed(log) == read(log, iter(chunks), names_ended=iter(names), thrown_away=iter(thrown_away))


@given(log=LOGS, start=st.integers(0, 30), chunks=CHUNKS, names=NAMES, thrown_away=st.integers(0, 30))
def test_a_reader_may_begin_anywhere(
    log: list[Entry], start: int, chunks: list[int], names: list[bool], thrown_away: int
) -> None:
    """Where the first answer reaches far enough, however it is read again after that."""
    expected = [offset for offset in committed(log) if offset >= start]
    thrown = chain([thrown_away], repeat(0))

    assert expected == read(
        log, chain([len(log)], chunks), names_ended=iter(names), position=start, thrown_away=thrown
    )


def test_what_is_remembered_is_bounded() -> None:
    ended: Ended = {(producer, 0): producer for producer in range(MAX_REMEMBERED + 5)}

    current_aborts([], b"", 0, ended)

    assert list(range(5, MAX_REMEMBERED + 5)) == list(ended.values())
