"""Spans as a receiver reads them, decoded by OpenTelemetry's own messages."""

from __future__ import annotations

from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span as SpanMessage
from opentelemetry.proto.trace.v1.trace_pb2 import SpanFlags, Status

from stream_infer.tracing.context import TraceContext
from stream_infer.tracing.otlp import encode_spans
from stream_infer.tracing.spans import Attribute, Span

OWN = TraceContext((1 << 127) + 5, (1 << 63) + 7, is_sampled=True, tracestate="a=b,c=d")
PARENT = TraceContext(OWN.trace_id, 9, is_sampled=True)
BATCH = TraceContext(11, 13, is_sampled=True)


def decoded(*spans: Span) -> list[Any]:
    (group,) = ExportTraceServiceRequest.FromString(encode_spans(spans, {"service.name": "s"})).resource_spans
    assert [("service.name", "s")] == [
        (pair.key, pair.value.string_value) for pair in group.resource.attributes
    ]
    (scope,) = group.scope_spans
    assert "stream_infer" == scope.scope.name
    return list(scope.spans)


def test_a_span_arrives_whole() -> None:
    (span,) = decoded(Span("process t", OWN, 10, 20, PARENT, consumes=True, links=[BATCH], error="malformed"))

    assert ("process t", 10, 20) == (span.name, span.start_time_unix_nano, span.end_time_unix_nano)
    assert (OWN.trace_id.to_bytes(16), OWN.span_id.to_bytes(8)) == (span.trace_id, span.span_id)
    assert "a=b,c=d" == span.trace_state
    assert PARENT.span_id.to_bytes(8) == span.parent_span_id
    assert SpanMessage.SPAN_KIND_CONSUMER == span.kind
    assert [(BATCH.trace_id.to_bytes(16), BATCH.span_id.to_bytes(8))] == [
        (link.trace_id, link.span_id) for link in span.links
    ]
    assert Status.STATUS_CODE_ERROR == span.status.code


def test_spans_keep_their_order_and_a_root_has_no_parent() -> None:
    first, second = decoded(Span("a", OWN, 1, 2), Span("b", BATCH, 1, 2))

    assert ("a", "b") == (first.name, second.name)
    assert (b"", SpanMessage.SPAN_KIND_INTERNAL) == (first.parent_span_id, first.kind)
    assert Status.STATUS_CODE_UNSET == first.status.code


@pytest.mark.parametrize(("is_local", "is_remote"), [(True, False), (False, True)])
def test_a_parent_elsewhere_is_marked(is_local: bool, is_remote: bool) -> None:  # noqa: FBT001
    (span,) = decoded(Span("a", OWN, 1, 2, PARENT, is_local=is_local))

    assert is_remote == bool(span.flags & SpanFlags.SPAN_FLAGS_CONTEXT_IS_REMOTE_MASK)
    assert span.flags & SpanFlags.SPAN_FLAGS_CONTEXT_HAS_IS_REMOTE_MASK


def test_attributes_keep_their_types() -> None:
    attributes: dict[str, Attribute] = {"a": True, "b": 1, "c": 1.0, "d": "1", "e": False, "f": -(1 << 62)}
    (span,) = decoded(Span("a", OWN, 1, 2, attributes=attributes))
    # The same names with values that are equal but of another type.
    (other,) = decoded(Span("a", OWN, 1, 2, attributes={"a": 1, "b": 1.0, "c": True}))

    told = [(pair.key, pair.value.WhichOneof("value")) for pair in (*span.attributes, *other.attributes)]
    assert [
        ("a", "bool_value"),
        ("b", "int_value"),
        ("c", "double_value"),
        ("d", "string_value"),
        ("e", "bool_value"),
        ("f", "int_value"),
        ("a", "int_value"),
        ("b", "double_value"),
        ("c", "bool_value"),
    ] == told
    assert [True, 1, 1.0, "1", False, -(1 << 62)] == [
        getattr(pair.value, pair.value.WhichOneof("value")) for pair in span.attributes
    ]
