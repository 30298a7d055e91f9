"""The span that a caller of the client is in, if the caller traces."""

from __future__ import annotations

import sys

from stream_infer.tracing.context import TraceContext


def current_traceparent() -> str:
    """Return the `traceparent` of OpenTelemetry's current span, or an empty string.

    Who traces has loaded the library; it is not loaded for those who do not.
    """
    trace = sys.modules.get("opentelemetry.trace")
    context = trace.get_current_span().get_span_context() if trace else None
    if context is None or not context.is_valid:
        return ""
    flags = context.trace_flags
    return TraceContext(context.trace_id, context.span_id, flags.sampled).traceparent.decode()
