"""Spans reach a receiver over real HTTP, as OpenTelemetry's variables say, or are counted."""

from __future__ import annotations

import ssl
from http import HTTPStatus
from pathlib import Path

import pytest

from loadgen.kafka.security import Authority
from stream_infer.errors import ConfigError
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


async def test_a_busy_receiver_is_asked_again() -> None:
    with OtlpReceiver(HTTPStatus.SERVICE_UNAVAILABLE, HTTPStatus.OK) as receiver:
        async with Exporter(receiver.endpoint, None) as exporter:
            exporter.export([SPAN])
    assert (2, 0, 1) == (receiver.requests, exporter.dropped, len(receiver.spans))


async def test_requests_are_compressed_if_the_variable_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_COMPRESSION", "gzip")
    with OtlpReceiver() as receiver:
        async with Exporter(receiver.endpoint, None) as exporter:
            exporter.export([SPAN])
    assert ("gzip", 1) == (receiver.headers["Content-Encoding"], len(receiver.spans))


@pytest.mark.parametrize(
    ("name", "value"), [("COMPRESSION", "snappy"), ("TIMEOUT", "soon"), ("TIMEOUT", "0")]
)
async def test_a_variable_that_cannot_be_used_is_named(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(f"OTEL_EXPORTER_OTLP_{name}", value)
    with pytest.raises(ConfigError, match=f"OTEL_EXPORTER_OTLP_{name}: '{value}'"):
        Exporter(None, None)


@pytest.mark.parametrize("shown", [True, False])
async def test_a_receivers_certificate_is_trusted_and_ours_is_shown(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, *, shown: bool
) -> None:
    """The exporter's variables go before those of the library that it sends with."""
    authority, stranger = Authority(tmp_path), Authority(tmp_path_of(tmp_path, "stranger"))
    context = authority.context_of(authority.issue("127.0.0.1"))
    context.verify_mode = ssl.CERT_REQUIRED
    own = authority.issue("worker")
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(stranger.ca_file))
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_CERTIFICATE", str(authority.ca_file))
    if shown:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE", str(own.cert_file))
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_CLIENT_KEY", str(own.key_file))

    with OtlpReceiver(tls=context) as receiver:
        async with Exporter(receiver.endpoint, None) as exporter:
            exporter.export([SPAN])

    assert (int(shown), int(not shown)) == (len(receiver.spans), exporter.dropped)


def tmp_path_of(directory: Path, name: str) -> Path:
    """Return a directory in another."""
    made = directory / name
    made.mkdir()
    return made


async def test_what_is_refused_is_counted_once() -> None:
    with OtlpReceiver(HTTPStatus.BAD_REQUEST) as receiver:
        async with Exporter(receiver.endpoint, None) as exporter:
            exporter.export([SPAN] * 3)
    assert (1, 3) == (receiver.requests, exporter.dropped)
