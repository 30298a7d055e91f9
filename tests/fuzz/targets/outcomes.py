"""Records of output topics, as clients, side streams and operators read them."""

from __future__ import annotations

from stream_infer.bus.client_codec import decode_result, outcome_id
from stream_infer.bus.codec import ResultEncoder
from stream_infer.config import BUILTIN_STREAMS
from stream_infer.errors import MalformedRecordError
from stream_infer.schemas import ModelInfo, Record, Result, Stages
from stream_infer.service.dead_letters import to_entry
from stream_infer.service.dead_letters_view import listing_row, whole
from tests.fuzz.feed import Feed
from tests.fuzz.target import Target, attempt

_STREAM = BUILTIN_STREAMS["classify"]
_INFO = ModelInfo("sentiment", "builtin:sentiment", "r1", "int8", "cpu", 256)
_ENCODER = ResultEncoder(_STREAM, _INFO, "classify")
_INPUT = Record("requests.classify", 3, 17, 1_764_000_000_000, b"key", b"", (("traceparent", b"00-1"),))
_RESULT = Result(_INPUT, "order-7", "classify", {"label": "good"}, "sentiment", Stages(0.5, 0.25), late=True)


def check_result(data: bytes) -> None:
    """A record is a result with all that one has, or is refused; a result is read as it was written."""
    feed = Feed(data)
    identity, late = feed.text() or "0", bool(feed.below(2))
    stages = Stages(*(feed.below(256) / 8 for _ in Stages._fields))
    result = _RESULT._replace(id=identity, late=late, stages=stages)
    written = _ENCODER.encode(result)
    record = Record(written.topic, 0, 0, 0, written.key, written.value, tuple(written.headers))
    read = decode_result(record)
    assert (identity, late, stages) == (read.id, read.late, read.stages)
    assert (_INPUT.position, {"label": "good"}) == (read.record.position, read.body)
    given = feed.record()
    outcome_id(given)
    mixed = given._replace(value=given.value or written.value, headers=(*record.headers, *given.headers))
    found = attempt(MalformedRecordError, decode_result, mixed)
    if found is not None:
        assert all(0.0 <= seconds for seconds in found.stages)
        assert min(found.record.partition, found.record.offset) >= 0


def check_view(data: bytes) -> None:
    """An operator can look at whatever lies on a dead-letter topic, and no terminal obeys it."""
    record = Feed(data).record()
    entry = to_entry(record)
    assert (entry.letter is None) == bool(entry.fault)
    listing_row(entry, is_replayed=False)
    assert all(line.isprintable() for line in whole(record).split("\n"))


_LETTER = b"".join(
    bytes([number, 1, len(value)]) + value
    for number, value in ((13, b"late"), (14, b"Late: it was"), (19, b"topic"), (20, b"0"), (21, b"7"))
)
TARGETS = (
    Target("results", check_result, (b"\5order\1\1\2\3\4\5" + bytes(17) + b"\0\2\7\1\0019\x08\1\00117\1{}",)),
    Target("dead_letters_view", check_view, (bytes(17) + b"\1\3key\5" + _LETTER + b'\1{"text": "\x1b[1m"}',)),
)
