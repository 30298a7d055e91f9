"""W3C Trace Context in the headers of records: https://www.w3.org/TR/trace-context/."""

from __future__ import annotations

import re
from typing import NamedTuple

from stream_infer.schemas import Headers

TRACEPARENT = "traceparent"
TRACESTATE = "tracestate"
MAX_TRACESTATE_BYTES = 512
"""What the specification asks everybody to carry on; a longer one is left out."""

_SAMPLED = 0x01
_TRACEPARENT = re.compile(rb"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?", re.DOTALL)
_MEMBER = rb"[a-z0-9][a-z0-9_\-*/@]{0,255}=[\x21-\x2b\x2d-\x3c\x3e-\x7e]{1,256}"
_TRACESTATE = re.compile(rb"[ \t]*" + _MEMBER + rb"[ \t]*(?:,[ \t]*(?:" + _MEMBER + rb")?[ \t]*){0,31}")
_CURRENT_VERSION = b"00"
_NO_VERSION = b"ff"


class TraceContext(NamedTuple):
    """A span as others name it: its trace, its id, and whether it is recorded."""

    trace_id: int
    span_id: int
    is_sampled: bool
    tracestate: str = ""

    @property
    def traceparent(self) -> bytes:
        """The header's value that makes the span a parent."""
        return b"00-%032x-%016x-%02x" % (self.trace_id, self.span_id, self.is_sampled)


def parent_of(headers: Headers) -> TraceContext | None:
    """Return the span that a record's headers name as its parent, or None.

    What is not valid by the specification counts as absent, and so does a `tracestate` without a
    valid `traceparent`. Of a header that repeats, the last is taken.
    """
    if not headers:
        return None
    found = {name: value for name, value in headers if name in {TRACEPARENT, TRACESTATE}}
    traceparent = found.get(TRACEPARENT)
    if traceparent is None or (match := _TRACEPARENT.fullmatch(traceparent)) is None:
        return None
    version, trace, span, flags, rest = match.groups()
    trace_id, span_id = int(trace, 16), int(span, 16)
    if version == _NO_VERSION or (version == _CURRENT_VERSION and rest) or not (trace_id and span_id):
        return None
    is_sampled = bool(int(flags, 16) & _SAMPLED)
    return TraceContext(trace_id, span_id, is_sampled, _checked(found.get(TRACESTATE)))


def _checked(tracestate: bytes | None) -> str:
    if not tracestate or len(tracestate) > MAX_TRACESTATE_BYTES or not _TRACESTATE.fullmatch(tracestate):
        return ""
    return tracestate.decode("ascii")
