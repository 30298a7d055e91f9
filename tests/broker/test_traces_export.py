"""Spans reach a receiver over real HTTP, as OpenTelemetry's variables say, or are counted."""

from __future__ import annotations

from http import HTTPStatus

import pytest

from stream_infer.tracing.context import TraceContext
from stream_infer.tracing.exporter import MAX_QUEUED, Exporter
from stream_infer.tracing.spans import Span
from tests.broker.otlp_receiver import OtlpReceiver

SPAN = Span("process t", TraceContext(1, 2, is_sampled=True), 10, 20, consumes=True)


async def test_opentelemetrys_variables_hold_where_the_settings_say_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with OtlpReceiver() as receiver:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.endpoint.removesuffix("/v1/traces"))
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Bearer%20token")
        monkeypatch.setenv("OTEL_SERVICE_NAME", "moods")
        async with Exporter(None, None) as exporter:
            exporter.export([SPAN])
        async with Exporter(receiver.endpoint, "named") as exporter:
            exporter.export([SPAN])

    assert ["moods", "named"] == [resource["service.name"] for resource in receiver.resources]
    assert "Bearer token" == receiver.headers["authorization"]
    assert [("process t", 10, 20)] * 2 == [
        (span.name, span.start_time_unix_nano, span.end_time_unix_nano) for span in receiver.spans
    ]


async def test_what_finds_no_room_is_dropped_and_counted() -> None:
    with OtlpReceiver() as receiver:
        async with Exporter(receiver.endpoint, None) as exporter:
            exporter.export([SPAN] * (MAX_QUEUED + 5))
            assert 5 == exporter.dropped
    assert MAX_QUEUED + 5 == len(receiver.spans) + exporter.dropped
    assert receiver.spans


async def test_what_is_refused_is_counted_once() -> None:
    with OtlpReceiver(HTTPStatus.BAD_REQUEST) as receiver:
        async with Exporter(receiver.endpoint, None) as exporter:
            exporter.export([SPAN] * 3)
    assert (1, 3) == (receiver.requests, exporter.dropped)
