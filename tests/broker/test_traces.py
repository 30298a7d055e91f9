"""A worker's traces as an OTLP receiver sees them, and a worker whose receiver fails."""

from __future__ import annotations

import asyncio
from http import HTTPStatus
from pathlib import Path
from typing import Any

import msgpack
import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from stream_infer.bus.batches import OutRecord
from stream_infer.bus.connection import Connection
from stream_infer.bus.embedded import free_port
from stream_infer.bus.publisher import Publisher
from stream_infer.schemas import Record
from stream_infer.tracing.context import TraceContext
from stream_infer.web.probe import read_metrics
from tests.broker.conftest import MakeTopic
from tests.broker.lanes import Lane, watched
from tests.broker.otlp_receiver import OtlpReceiver, attributes
from tests.broker.probes import PATIENCE, read_committed
from tests.broker.service_process import SCORING_STREAM, ServiceProcess

FIRST = TraceContext(0xA << 100, 0xA1, is_sampled=True, tracestate="vendor=1")
SECOND = TraceContext(0xB << 100, 0xB1, is_sampled=True)
UNSAMPLED = TraceContext(0xC << 100, 0xC1, is_sampled=False)

# Nothing is late, so only what a producer or a dead letter asks for is traced.
TRACED = """
latency_budget_ms = 600000
delivery = "{delivery}"
[traces]
enabled = true
endpoint = "{endpoint}"
sample_ratio = 0.0
"""


@pytest.fixture
async def lane(connection: Connection, make_topic: MakeTopic, group: str) -> Lane:
    """A stream of one partition, so that what is written together runs together."""
    names = {name: await make_topic() for name in ("input", "output", "dead_letters")}
    settings = SCORING_STREAM.format(group=group, bootstrap_servers=connection.bootstrap_servers, **names)
    return Lane(connection, **names, settings=settings)


@pytest.mark.parametrize("delivery", ["exactly-once", "at-least-once"])
async def test_traces_tell_of_records_and_batches_and_outcomes_carry_them_on(
    lane: Lane, delivery: str, tmp_path: Path
) -> None:
    with OtlpReceiver() as receiver:
        settings = lane.settings + TRACED.format(delivery=delivery, endpoint=receiver.endpoint)
        async with watched(lane) as outcomes:
            await _write(lane)
            async with ServiceProcess(settings, tmp_path) as service:
                await outcomes.reach(6)
                # What is queued is sent before the worker ends.
                assert 0 == await service.stop()

    spans = {int(attributes(span)["messaging.kafka.offset"]): span for span in _records_of(receiver.spans)}
    assert [0, 1, 4, 5] == sorted(spans)
    assert [(FIRST, "vendor=1"), (SECOND, "")] == [
        (_parent(spans[0], FIRST), spans[0].trace_state),
        (_parent(spans[1], SECOND), spans[1].trace_state),
    ]
    assert b"" == spans[4].parent_span_id
    assert {"stream-infer"} == {resource["service.name"] for resource in receiver.resources}

    results = {_offset(each): each for each in await read_committed(lane.connection, lane.output)}
    assert [_traceparent(spans[0]), _traceparent(spans[1]), UNSAMPLED.traceparent, None] == [
        dict(results[offset].headers).get("traceparent") for offset in range(4)
    ]
    assert b"vendor=1" == dict(results[0].headers)["tracestate"]

    letters = {_offset(each): each for each in await read_committed(lane.connection, lane.dead_letters)}
    for offset, reason in ((4, "model_failed"), (5, "malformed")):
        assert (Status.STATUS_CODE_ERROR, reason) == (
            spans[offset].status.code,
            attributes(spans[offset])["error.type"],
        )
        assert _traceparent(spans[offset]) == dict(letters[offset].headers)["traceparent"]

    batches = {span.span_id: span for span in receiver.spans if span.name == "run_batch scorer"}
    first, second, poison = ({link.span_id for link in spans[offset].links} for offset in (0, 1, 4))
    assert first & second & poison
    assert first | second | poison == set(batches)
    assert not spans[5].links
    assert {"fp32"} == {attributes(batch)["stream_infer.precision"] for batch in batches.values()}
    assert "secret" not in str(receiver.spans)

    stages = [span for span in receiver.spans if span.parent_span_id == spans[0].span_id]
    assert {"engine", "publish"} <= {span.name for span in stages}
    for span in stages:
        assert spans[0].start_time_unix_nano <= span.start_time_unix_nano
        assert span.end_time_unix_nano <= spans[0].end_time_unix_nano


@pytest.mark.parametrize("status", [None, HTTPStatus.INTERNAL_SERVER_ERROR], ids=["down", "failing"])
async def test_a_receiver_that_takes_nothing_costs_spans_and_no_results(
    lane: Lane, status: HTTPStatus | None, tmp_path: Path
) -> None:
    with OtlpReceiver(status or HTTPStatus.OK) as receiver:
        endpoint = receiver.endpoint if status else f"http://127.0.0.1:{free_port()}/v1/traces"
        settings = lane.settings + TRACED.format(delivery="exactly-once", endpoint=endpoint)
        async with watched(lane) as outcomes, ServiceProcess(settings, tmp_path) as service:
            await _write(lane)
            await outcomes.reach(6)
            if status:
                await _until_dropped(service.url)
            assert 0 == await service.stop()

    assert [] == receiver.spans
    assert "trace_spans_dropped" in service.log_path.read_text()
    assert (await lane.audit()).is_clean


async def _until_dropped(url: str) -> None:
    async with asyncio.timeout(PATIENCE):
        while True:
            if (await read_metrics(url))["stream_infer_trace_spans_dropped_total"] > 0:
                return
            await asyncio.sleep(0.05)


async def _write(lane: Lane) -> None:
    """Write two sampled records, an unsampled one, one of no trace, poison, and what is no request."""
    good = msgpack.packb({"text": "secret text"})
    given = [
        (good, FIRST),
        (good, SECOND),
        (good, UNSAMPLED),
        (good, None),
        (msgpack.packb({"text": "secret <raise>"}), None),
        (b"secret, not msgpack", None),
    ]
    records = [
        OutRecord(lane.input, b"secret key %d" % number, value, _headers(context))
        for number, (value, context) in enumerate(given)
    ]
    async with Publisher(lane.connection) as publisher:
        await publisher.publish(records)


def _headers(context: TraceContext | None) -> list[tuple[str, bytes | None]]:
    if context is None:
        return []
    state: list[tuple[str, bytes | None]] = (
        [("tracestate", context.tracestate.encode())] if context.tracestate else []
    )
    return [("traceparent", context.traceparent), *state]


def _records_of(spans: list[Any]) -> list[Any]:
    found = [span for span in spans if span.kind == Span.SPAN_KIND_CONSUMER]
    assert all(span.name.startswith("process topic-") for span in found)
    return found


def _parent(span: Any, expected: TraceContext) -> TraceContext | None:
    """Return the expected parent if it is the span's."""
    found = (int.from_bytes(span.trace_id), int.from_bytes(span.parent_span_id))
    return expected if found == (expected.trace_id, expected.span_id) else None


def _traceparent(span: Any) -> bytes:
    return f"00-{span.trace_id.hex()}-{span.span_id.hex()}-01".encode()


def _offset(outcome: Record) -> int:
    headers = dict(outcome.headers)
    return int(headers.get("source_offset") or headers["dead_letter_offset"] or b"-1")
