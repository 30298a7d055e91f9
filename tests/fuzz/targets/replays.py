"""What was put back of the dead letters, and which are meant."""

from __future__ import annotations

from stream_infer.bus.replays import decode_entry, encode_entry
from stream_infer.errors import RecordError, StreamInferError
from stream_infer.flow.replay import (
    Mark,
    decode_mark,
    encode_mark,
    parse_duration,
    parse_place,
    plan_replay,
)
from stream_infer.schemas import Record
from tests.fuzz.feed import Feed
from tests.fuzz.target import Target, attempt

_MOST = 3


def check_ledger(data: bytes) -> None:
    """An entry of the ledger is refused, or says what an entry written of it says too."""
    record = Feed(data).record()
    entry = attempt(RecordError, decode_entry, record)
    mark = entry and attempt(StreamInferError, decode_mark, entry[1])
    if not entry or not mark:
        return
    again = encode_entry("dead-letters", entry[0], encode_mark(mark))
    partition, fields = decode_entry(Record("ledger", 0, 0, 0, again.key, again.value))
    assert partition == entry[0]
    read = decode_mark(fields)
    edges = {edge + step for run in mark.runs[:20] for edge in (run.start, run.stop) for step in (-1, 0, 1)}
    assert all(mark.covers(offset) == read.covers(offset) for offset in edges)


def check_plan(data: bytes) -> None:
    """Each dead letter that is chosen and was not put back goes back once, in steps that are not too long."""
    feed = Feed(data)
    present = sorted({feed.below(256) for _ in range(feed.below(64))})
    chosen = {offset for offset in present if feed.below(2)}
    mark, before = Mark(), set[int]()
    for step in plan_replay(present, {offset for offset in chosen if feed.below(2)}, mark, _MOST):
        mark, before = step.mark, before | set(step.offsets)
    put_back: list[int] = []
    for step in plan_replay(present, chosen, mark, _MOST):
        assert len(step.offsets) <= _MOST
        put_back += step.offsets
        mark = step.mark
    assert sorted(chosen - before) == put_back
    assert all(mark.covers(offset) for offset in chosen)


def check_words(data: bytes) -> None:
    """Places and durations that operators type are read back as they are shown, or refused."""
    text = data.decode(errors="replace")
    place = attempt(StreamInferError, parse_place, text)
    if place is not None:
        assert place == parse_place(str(place))
    assert (attempt(StreamInferError, parse_duration, text) or 0) >= 0


_FIELDS = b'{"position": 5, "replayed": "si1:CC."}'
TARGETS = (
    Target("ledger", check_ledger, (bytes(17) + b"\1\0013\0\1" + _FIELDS,), max_bytes=256),
    Target(
        "replay_plan",
        check_plan,
        (bytes([6, 1, 2, 3, 9, 10, 200, 1, 1, 0, 1, 1, 1, 1, 0, 1]),),
        max_bytes=160,
    ),
    Target("replay_words", check_words, (b"0/17", b"15m"), max_bytes=48),
)
