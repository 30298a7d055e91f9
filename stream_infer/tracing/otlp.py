"""Spans as the bytes of an OTLP request: https://opentelemetry.io/docs/specs/otlp/.

They are built from the protocol's own messages at once: by way of the library's spans a record took five
times as long, and at full rate that was the greater part of what tracing cost.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Final

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, InstrumentationScope, KeyValue
from opentelemetry.proto.resource.v1.resource_pb2 import Resource
from opentelemetry.proto.trace.v1.trace_pb2 import ScopeSpans, SpanFlags, Status
from opentelemetry.proto.trace.v1.trace_pb2 import Span as SpanMessage

from stream_infer.tracing.context import TraceContext
from stream_infer.tracing.spans import Attribute, Span

_SCOPE: Final = InstrumentationScope(name="stream_infer")
_ERROR: Final = Status(code=Status.STATUS_CODE_ERROR)
_LOCAL: Final = SpanFlags.SPAN_FLAGS_CONTEXT_HAS_IS_REMOTE_MASK
_REMOTE: Final = _LOCAL | SpanFlags.SPAN_FLAGS_CONTEXT_IS_REMOTE_MASK
_SEVERAL: Final = 512
"""Attributes that are remembered: most values stand in every span of a stream."""


def encode_spans(spans: Sequence[Span], resource: Mapping[str, Attribute]) -> bytes:
    """Return the request that exports spans of one `resource`, in order."""
    messages = ScopeSpans(scope=_SCOPE)
    for span in spans:
        _add(messages, span)
    request = ExportTraceServiceRequest()
    request.resource_spans.add(
        resource=Resource(attributes=[_attribute(*pair) for pair in resource.items()]), scope_spans=[messages]
    )
    body: bytes = request.SerializeToString()
    return body


def _add(messages: ScopeSpans, span: Span) -> None:
    trace_id, span_id = _ids(span.context)
    parent = span.parent
    message = messages.spans.add(
        trace_id=trace_id,
        span_id=span_id,
        trace_state=span.context.tracestate,
        parent_span_id=_ids(parent)[1] if parent else b"",
        name=span.name,
        kind=SpanMessage.SPAN_KIND_CONSUMER if span.consumes else SpanMessage.SPAN_KIND_INTERNAL,
        start_time_unix_nano=span.began_ns,
        end_time_unix_nano=span.ended_ns,
        flags=_LOCAL if parent is None or span.is_local else _REMOTE,
    )
    if span.attributes:
        # Messages whose bytes are joined are merged, and their lists are joined: all in one call.
        message.MergeFromString(b"".join([_encoded_attribute(*pair) for pair in span.attributes.items()]))
    for link in span.links:
        trace_id, span_id = _ids(link)
        message.links.add(trace_id=trace_id, span_id=span_id, flags=_LOCAL)
    if span.error is not None:
        message.status.CopyFrom(_ERROR)


def _ids(context: TraceContext) -> tuple[bytes, bytes]:
    return context.trace_id.to_bytes(16), context.span_id.to_bytes(8)


# Typed, because `True` is equal to `1`.
@lru_cache(_SEVERAL, typed=True)
def _encoded_attribute(name: str, value: Attribute) -> bytes:
    """Return the bytes of a span that has this attribute and nothing else."""
    body: bytes = SpanMessage(attributes=[_attribute(name, value)]).SerializeToString()
    return body


def _attribute(name: str, value: Attribute) -> KeyValue:
    match value:
        case bool():
            told = AnyValue(bool_value=value)
        case int():
            told = AnyValue(int_value=value)
        case float():
            told = AnyValue(double_value=value)
        case _:
            told = AnyValue(string_value=value)
    return KeyValue(key=name, value=told)
