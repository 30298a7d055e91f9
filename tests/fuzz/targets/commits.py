"""What is said of a position that is committed: which offsets above it are done."""

from __future__ import annotations

from bisect import bisect_left

from stream_infer.errors import StreamInferError
from stream_infer.flow.offsets import MAX_METADATA_BYTES, MAX_OFFSET, OffsetTracker, parse_metadata
from tests.fuzz.feed import Feed
from tests.fuzz.target import Target, attempt

_MAX_POSITION = 1 << 62


def check_metadata(data: bytes) -> None:
    """Metadata is refused, or says runs of offsets above the position, and those are written as the same."""
    feed = Feed(data)
    position = abs(feed.wide()) % _MAX_POSITION
    text = feed.rest().decode("latin-1")
    runs = attempt(StreamInferError, parse_metadata, position, text)
    if not runs:
        return
    bounds = [position, *(bound for run in runs for bound in (run.start, run.stop))]
    assert bounds == sorted(bounds)
    assert bounds[-1] <= MAX_OFFSET
    written = OffsetTracker(position, runs).metadata()
    assert _merged(runs) == _merged(parse_metadata(position, written))


def check_tracker(data: bytes) -> None:
    """However offsets are admitted and finished and workers start anew, what is done is what finished.

    The model is a set: nothing in it is done again, and nothing in flight counts as done.
    """
    feed = Feed(data)
    start = abs(feed.wide()) % _MAX_POSITION
    tracker, done, flying = OffsetTracker(start), set[int](), list[int]()
    offsets, place = [start + feed.below(3)], 0
    while feed.is_left:
        match feed.below(4):
            case 0 | 1:
                if place == len(offsets):
                    offsets.append(offsets[-1] + 1 + feed.below(3))
                if tracker.admit(offsets[place]):
                    assert offsets[place] not in done
                    flying.append(offsets[place])
                place += 1
            case 2 if flying:
                offset = flying.pop(feed.below(len(flying)))
                tracker.finish(offset)
                done.add(offset)
            case 3 if feed.below(8) == 0:
                runs = parse_metadata(tracker.position, tracker.metadata())
                tracker, flying = OffsetTracker(tracker.position, runs), []
                place = bisect_left(offsets, tracker.position)
        text = tracker.metadata()
        skipped = {o for run in parse_metadata(tracker.position, text) for o in run}
        assert len(text) <= MAX_METADATA_BYTES
        assert done == {offset for offset in done if offset < tracker.position or offset in skipped}
        assert not any(offset < tracker.position or offset in skipped for offset in flying)


def _merged(runs: tuple[range, ...]) -> list[tuple[int, int]]:
    merged: list[tuple[int, int]] = []
    for run in runs:
        if merged and merged[-1][1] == run.start:
            merged[-1] = (merged[-1][0], run.stop)
        else:
            merged.append((run.start, run.stop))
    return merged


_TRACKER = OffsetTracker(5, [range(7, 9), range(100, 5_000)])
TARGETS = (
    Target(
        "commits",
        check_metadata,
        (b"\5" + bytes(7) + _TRACKER.metadata().encode(), bytes(8) + b"another client's words"),
        max_bytes=256,
    ),
    Target("tracker", check_tracker, (bytes(8) + b"\0\0\0\1\0\2\2\1\0\0\2\0\3\0\0\0\0\0",), max_bytes=128),
)
