"""A record's headers name its parent span, or none; whatever they hold, they stop nothing."""

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, use_span

from stream_infer.client import Client, ClientRequest
from stream_infer.schemas import ClassifyBody
from stream_infer.tracing.context import MAX_TRACESTATE_BYTES, TraceContext, parent_of

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
GOOD = f"00-{TRACE}-{SPAN}-01".encode()


def parent(traceparent: bytes | None, tracestate: bytes | None = None) -> TraceContext | None:
    return parent_of([("ce_id", b"x"), ("traceparent", traceparent), ("tracestate", tracestate)])


def test_a_parent_is_read_with_its_flag_and_state() -> None:
    found = parent(GOOD, b"rojo=00f067aa0ba902b7,congo=t61rcWkgMzE")
    expected = TraceContext(int(TRACE, 16), int(SPAN, 16), True, "rojo=00f067aa0ba902b7,congo=t61rcWkgMzE")
    assert expected == found
    assert found.traceparent == GOOD


@pytest.mark.parametrize(
    ("flags", "is_sampled"), [(b"00", False), (b"01", True), (b"02", False), (b"ff", True)]
)
def test_only_the_lowest_flag_says_whether_it_is_sampled(flags: bytes, *, is_sampled: bool) -> None:
    found = parent(GOOD[:-2] + flags)
    assert found is not None
    assert is_sampled == found.is_sampled


@pytest.mark.parametrize(
    "traceparent",
    [
        None,
        b"",
        b"00-trace",
        GOOD + b"-later",
        GOOD + b"\n",
        b" " + GOOD,
        GOOD.upper(),
        GOOD.replace(b"00-", b"ff-", 1),
        b"00-" + b"0" * 32 + b"-" + SPAN.encode() + b"-01",
        b"00-" + TRACE.encode() + b"-" + b"0" * 16 + b"-01",
        GOOD.replace(b"a", "\u0661".encode(), 1),
    ],
)
def test_what_is_not_valid_counts_as_absent(traceparent: bytes | None) -> None:
    assert parent(traceparent, b"a=b") is None


def test_a_later_version_may_say_more() -> None:
    assert parent(GOOD.replace(b"00-", b"cc-", 1) + b"-what-comes-later") is not None


@pytest.mark.parametrize(
    "tracestate",
    [b"no equals sign", b"a=b\r\nx: y", b"\xff=1", b"a=b," * 33, b"a=" + b"x" * MAX_TRACESTATE_BYTES],
)
def test_a_bad_state_does_not_cost_the_parent(tracestate: bytes) -> None:
    assert parent(GOOD) == parent(GOOD, tracestate)


def test_without_headers_there_is_no_parent() -> None:
    assert parent_of(()) is None


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["traceparent", "tracestate", "x"]),
            st.none() | st.binary(max_size=80) | st.from_regex(rb"[0-9a-f-]{0,60}", fullmatch=True),
        )
    )
)
def test_whatever_the_headers_hold_nothing_is_raised(headers: list[tuple[str, bytes | None]]) -> None:
    found = parent_of(headers)
    assert found is None or (found.trace_id > 0 and found.span_id > 0)


@given(st.integers(1, (1 << 128) - 1), st.integers(1, (1 << 64) - 1), st.booleans())
def test_what_goes_out_is_read_back(trace_id: int, span_id: int, is_sampled: bool) -> None:  # noqa: FBT001 - drawn by hypothesis
    context = TraceContext(trace_id, span_id, is_sampled)
    assert context == parent(context.traceparent)


async def test_the_client_names_the_callers_span_unless_told_another() -> None:
    client = Client("localhost:1")
    span = SpanContext(int(TRACE, 16), int(SPAN, 16), is_remote=False, trace_flags=TraceFlags(1))
    with use_span(NonRecordingSpan(span)):
        given = [ClientRequest(ClassifyBody("x")), ClientRequest(ClassifyBody("x"), traceparent="00-other")]
        sent = [dict(client._register(request).record.headers) for request in given]
    outside = dict(client._register(ClientRequest(ClassifyBody("x"))).record.headers)

    assert [GOOD, b"00-other"] == [headers["traceparent"] for headers in sent]
    assert "traceparent" not in outside


@pytest.mark.slow
def test_a_caller_who_traces_is_found_and_one_who_does_not_loads_nothing() -> None:
    """In a process of its own: others here have loaded the library."""
    script = """
import sys
from stream_infer.tracing.current import current_traceparent
assert "" == current_traceparent()
assert "opentelemetry" not in sys.modules
from opentelemetry import trace
assert "" == current_traceparent()
context = trace.SpanContext(0xab << 8, 0xcd << 8, False, trace.TraceFlags(1))
with trace.use_span(trace.NonRecordingSpan(context)):
    print(current_traceparent())
"""
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)  # noqa: S603 - our own
    assert f"00-{0xAB00:032x}-{0xCD00:016x}-01" == ran.stdout.strip()
