"""How often each label was given, in tumbling windows of event time.

A window's counts are published again whenever they change: updates, each of which replaces the one
before it. There is no retraction and no word for final. Event time is the timestamp of the result's
record, and each partition of results has a clock of its own, its greatest timestamp so far. A result
is late, and not counted, if its window ended longer than the grace before its partition's clock. So
what counts depends on the order within each partition alone, never on how partitions were
interleaved, and a recomputation over the same topics gives the same counts. Only partitions that
are read more than `RETAINED_MS` apart break that: older windows are forgotten.

A window remembers the last offset that it counted from each partition, in the same value as the
counts. A result that is read again is told by that and skipped. Windows are stored oldest first:
the newest ones hold the partitions' clocks, and a clock must never be stored ahead of the counts
that it closes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from stream_infer.bus.batches import OutRecord
from stream_infer.bus.values import CONTENT_TYPES, decode_value, encode_value
from stream_infer.streams.observations import LabelledResult

RETAINED_MS: Final = 86_400_000
"""How long before a stream's newest window others are kept."""


@dataclass(slots=True)
class Window:
    """Counts by label, and for each partition the last offset and the greatest timestamp in them."""

    counts: Counter[str] = field(default_factory=Counter)
    sources: dict[str, tuple[int, int]] = field(default_factory=dict)

    def has(self, result: LabelledResult) -> bool:
        """Whether the result is in the counts."""
        return result.position.offset <= self.sources.get(result.position.source, (-1, -1))[0]

    def count(self, result: LabelledResult) -> None:
        """Take the result into the counts."""
        source, offset = result.position.source, result.position.offset
        _, newest = self.sources.get(source, (-1, -1))
        self.counts[result.label] += 1
        self.sources[source] = (offset, max(newest, result.timestamp_ms))


@dataclass(frozen=True, slots=True, order=True)
class WindowName:
    """One window of one stream."""

    start_ms: int
    window_ms: int
    stream: str

    @property
    def key(self) -> bytes:
        """The key of its records, on the topic and in the table."""
        return f"{self.stream}/{self.window_ms}/{self.start_ms}".encode()

    @classmethod
    def of_key(cls, key: bytes) -> WindowName:
        """Return the name that the key was made of."""
        stream, window_ms, start_ms = key.decode().rsplit("/", 2)
        return cls(int(start_ms), int(window_ms), stream)


Change = tuple[WindowName, Window | None]
"""A window that is to be stored; None where it is to be forgotten."""


class LabelTrends:
    """The windows of all streams."""

    def __init__(self, window_ms: int, grace_ms: int, stored: Iterable[tuple[bytes, bytes]] = ()) -> None:
        self.late: Counter[str] = Counter()
        self._window_ms = window_ms
        self._grace_ms = grace_ms
        self._windows: dict[WindowName, Window] = {}
        self._changed: set[WindowName] = set()
        self._clocks: dict[tuple[str, str], int] = {}
        self._newest: dict[str, int] = {}
        for key, value in stored:
            self._restore(WindowName.of_key(key), decode_window(value))

    def add(self, result: LabelledResult) -> None:
        """Count the result, unless it was counted before or is late; `late` has the late ones by stream."""
        name = WindowName(
            result.timestamp_ms - result.timestamp_ms % self._window_ms, self._window_ms, result.stream
        )
        if (window := self._windows.get(name)) is not None and window.has(result):
            return
        if self._is_late(name, result.position.source):
            self.late[result.stream] += 1
            return
        window = self._windows.setdefault(name, Window())
        window.count(result)
        self._changed.add(name)
        self._advance(name, window)

    def take_changes(self) -> list[Change]:
        """Return the windows that changed since the last call, in the order to store them: oldest first."""
        changed, self._changed = sorted(self._changed), set()
        return [(name, self._windows.get(name)) for name in changed]

    def _restore(self, name: WindowName, window: Window) -> None:
        if name.window_ms != self._window_ms:
            self._changed.add(name)
            return
        self._windows[name] = window
        self._advance(name, window)

    def _is_late(self, name: WindowName, source: str) -> bool:
        closes_ms = name.start_ms + self._window_ms + self._grace_ms
        is_closed = closes_ms <= self._clocks.get((name.stream, source), 0)
        return is_closed or name.start_ms < self._newest.get(name.stream, 0) - RETAINED_MS

    def _advance(self, name: WindowName, window: Window) -> None:
        for source, (_, newest) in window.sources.items():
            clock = (name.stream, source)
            self._clocks[clock] = max(self._clocks.get(clock, 0), newest)
        if name.start_ms > self._newest.get(name.stream, -1):
            self._newest[name.stream] = name.start_ms
            self._forget(name.stream)

    def _forget(self, stream: str) -> None:
        oldest = self._newest[stream] - RETAINED_MS
        gone = {name for name in self._windows if name.stream == stream and name.start_ms < oldest}
        for name in gone:
            del self._windows[name]
        self._changed |= gone


def encode_window(window: Window) -> bytes:
    """Return the window as the table stores it."""
    return encode_value({"counts": window.counts, "sources": window.sources}, "msgpack")


def decode_window(value: bytes) -> Window:
    """Return the window that was stored."""
    fields = decode_value(value, None)
    sources = {source: (offset, newest) for source, (offset, newest) in fields["sources"].items()}
    return Window(Counter(fields["counts"]), sources)


def trend_record(name: WindowName, window: Window, topic: str) -> OutRecord:
    """Return the window's counts as a record; the last record of a key stands."""
    fields = {
        "stream": name.stream,
        "start_ms": name.start_ms,
        "end_ms": name.start_ms + name.window_ms,
        "counts": dict(window.counts),
        "total": window.counts.total(),
    }
    return OutRecord(
        topic, name.key, encode_value(fields, "msgpack"), [("content-type", CONTENT_TYPES["msgpack"])]
    )
