"""The trace that a record belongs to, by its headers."""

from __future__ import annotations

from stream_infer.tracing.context import MAX_TRACESTATE_BYTES, TRACEPARENT, TRACESTATE, parent_of
from tests.fuzz.feed import Feed
from tests.fuzz.target import Target

_PARENT = b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def check_trace(data: bytes) -> None:
    """No header is an error; a span that is found is valid, and is told on so that it is found again."""
    feed = Feed(data)
    drawn = feed.headers()
    traceparent = feed.optional()
    found = parent_of((*drawn, (TRACEPARENT, traceparent), (TRACESTATE, feed.rest())))
    if found is None:
        return
    assert 0 < found.trace_id < 1 << 128
    assert 0 < found.span_id < 1 << 64
    assert len(found.tracestate) <= MAX_TRACESTATE_BYTES
    assert found.tracestate.isascii()
    headers = ((TRACEPARENT, found.traceparent), (TRACESTATE, found.tracestate.encode()))
    assert found == parent_of(headers)


TARGETS = (
    Target(
        "trace_headers",
        check_trace,
        (
            b"\0\1" + bytes([len(_PARENT)]) + _PARENT + b"congo=t61rcWkgMzE, rojo=00f067aa0ba902b7",
            b"\0\1" + bytes([len(_PARENT) + 3]) + b"cc" + _PARENT[2:] + b"-ab",
        ),
    ),
)
