"""Header names that are not UTF-8 are read over; everything else stays exactly as aiokafka reads it."""

from typing import Any

import pytest
from aiokafka.record.default_records import _DefaultRecordBatchBuilderPy
from aiokafka.record.memory_records import MemoryRecords

from stream_infer.bus.tolerance import TolerantRecords


class Name(str):
    """A header name that is written as bytes of its own."""

    __slots__ = ()

    def encode(self, *_: Any) -> bytes:
        """Return bytes that are not UTF-8."""
        return b"a\xff\xfe"


def batch(base: int, names: list[str], compression: int = 0) -> bytes:
    """Return a batch of records with one header each."""
    builder = _DefaultRecordBatchBuilderPy(
        2, compression, is_transactional=1, producer_id=7, producer_epoch=0, base_sequence=0, batch_size=10**6
    )
    for number, name in enumerate(names):
        builder.append(number, 1_000 + number, b"k", b"v" * 50, [(name, b"h"), ("none", None)])
    data = bytes(builder.build())
    return base.to_bytes(8, "big") + data[8:]


def read(records: Any) -> list[tuple[Any, ...]]:
    found = []
    while records.has_next():
        current = records.next_batch()
        assert current.validate_crc()
        assert (7, True, False) == (current.producer_id, current.is_transactional, current.is_control_batch)
        found += [(r.offset, r.timestamp, r.key, r.value, list(r.headers)) for r in current]
    return found


@pytest.mark.parametrize("compression", [0, 1, 2, 3, 4])
def test_good_records_are_read_as_ever(compression: int) -> None:
    data = batch(0, ["a", "ß"], compression) + batch(2, ["c"], compression)

    assert read(MemoryRecords(data)) == read(TolerantRecords(data))
    assert len(data) == TolerantRecords(data).size_in_bytes()


@pytest.mark.parametrize("compression", [0, 1, 2, 3, 4])
def test_a_bad_name_stops_nothing(compression: int) -> None:
    data = (
        batch(10, ["a"], compression) + batch(11, ["b", Name(), "c", Name()], compression) + batch(15, ["d"])
    )

    with pytest.raises(UnicodeDecodeError):
        read(MemoryRecords(data))

    found = read(TolerantRecords(data))
    assert [10, 11, 12, 13, 14, 15] == [record[0] for record in found]
    assert ["a", "b", "a\ufffd\ufffd", "c", "a\ufffd\ufffd", "d"] == [record[4][0][0] for record in found]
    assert [("a\ufffd\ufffd", b"h"), ("none", None)] == found[2][4]
    assert (b"k", b"v" * 50) == found[2][2:4]


def test_a_half_batch_at_the_end_is_left() -> None:
    records = TolerantRecords(batch(0, ["a"]) + batch(1, ["b"])[:-5])

    assert 1 == len(read(records))
    assert not records.has_next()
