"""Who is traced, and what is told: spans by the conventions, with the times of the record's stages."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from random import Random
from typing import Any

import pytest
from opentelemetry.semconv._incubating.attributes import messaging_attributes as conventions
from opentelemetry.semconv.attributes import error_attributes
from typer.testing import CliRunner

from stream_infer.cli import app
from stream_infer.config_loading import load_settings
from stream_infer.errors import ConfigError
from stream_infer.schemas import BatchRun, DeadLetter, Outcome, Record, Result, Stages, Wait
from stream_infer.service import commands
from stream_infer.service.tracing import open_tracing
from stream_infer.tracing import spans as names
from stream_infer.tracing.context import TraceContext
from stream_infer.tracing.sampling import MAX_KEPT_PER_SECOND, Sampler, SamplingPolicy
from stream_infer.tracing.spans import Span
from stream_infer.tracing.tracer import MAX_BATCHES, PublicationTrace, Tracer

NOTHING = SamplingPolicy(0.0, always_late=False, always_dead_letters=False)
PARENT = TraceContext(0xABC, 0xDEF, is_sampled=True, tracestate="a=b")
UNSAMPLED = PARENT._replace(is_sampled=False)
BATCH = BatchRun(7, "m", 2, 40, 11.0, 12.0)
WALL_NS = 1_000_000_000_000
COMMITTED = 13.0


def record(parent: TraceContext | None = None, value: bytes | None = b"secret text") -> Record:
    headers: list[tuple[str, bytes | None]] = [("ce_id", b"secret id")]
    if parent:
        headers += [("traceparent", parent.traceparent), ("tracestate", parent.tracestate.encode())]
    return Record("requests", 3, 42, 0, b"secret key", value, tuple(headers))


def result(of: Record, **changes: Any) -> Result:
    """Return the result of a record that arrived at 10 after 5 seconds on the bus, and ended at 12.5."""
    stages = Stages(5.0, 0.5, 0.5, 1.0, 7.5)
    wait = Wait(10.0, 10.5, 11.0, 12.0)
    made = Result(of, "secret id", "s", {"label": "secret"}, "m", stages, False, 12.5, (wait,), (BATCH,))
    return made._replace(**changes)


def letter(of: Record, **changes: Any) -> DeadLetter:
    made = DeadLetter(of, "secret id", "s", "malformed", "secret error", "decode", 0, 12.0)
    return replace(made, **changes)


class Trace:
    """Publications of one tracer, and the spans they gave."""

    def __init__(self, policy: SamplingPolicy = NOTHING, *, with_ids: bool = False) -> None:
        self.spans: list[Span] = []
        self._tracer = Tracer(
            Sampler(policy),
            self.spans.extend,
            Random(0).getrandbits,
            group="g",
            precisions={"m": "int8"},
            with_ids=with_ids,
        )

    def publish(self, *outcomes: Outcome, now: float = COMMITTED) -> list[dict[str, bytes | None]]:
        """Return the headers that go out."""
        trace = PublicationTrace(self._tracer)
        sent = [[*outcome.record.headers, ("own", b"1")] for outcome in outcomes]
        for place, (outcome, headers) in enumerate(zip(outcomes, sent, strict=True)):
            trace.stamp(place, outcome, headers, now)
        trace.committed(outcomes, now, WALL_NS)
        assert all(len(headers) == len(dict(headers)) for headers in sent)
        return [dict(headers) for headers in sent]

    def consumed(self) -> list[Span]:
        """The records' spans."""
        return [span for span in self.spans if span.consumes]


def ago(moment: float) -> int:
    """The wall clock at a moment on the other one."""
    return WALL_NS - int((COMMITTED - moment) * 1e9)


def test_a_sampled_record_continues_its_trace_and_the_outcome_names_our_span() -> None:
    trace = Trace()
    (headers,) = trace.publish(result(record(PARENT)))

    (span,) = trace.consumed()
    assert (PARENT.trace_id, PARENT) == (span.context.trace_id, span.parent)
    assert PARENT.span_id != span.context.span_id
    assert {
        "ce_id": b"secret id",
        "own": b"1",
        "traceparent": span.context.traceparent,
        "tracestate": b"a=b",
    } == headers
    assert b"-01" == span.context.traceparent[-3:]


def test_an_unsampled_parent_is_respected_and_carried_on() -> None:
    trace = Trace(SamplingPolicy(1.0))
    (headers,) = trace.publish(result(record(UNSAMPLED)))
    assert [] == trace.spans
    assert (UNSAMPLED.traceparent, b"a=b") == (headers["traceparent"], headers["tracestate"])


@pytest.mark.parametrize("ratio", [0.0, 0.25, 1.0])
def test_the_ratio_holds_for_records_without_a_parent(ratio: float) -> None:
    trace = Trace(SamplingPolicy(ratio))
    sent = trace.publish(*[result(record())] * 400)
    assert pytest.approx(ratio, abs=0.06) == len(trace.consumed()) / 400
    assert len(trace.consumed()) == sum("traceparent" in headers for headers in sent)
    assert all(span.parent is None for span in trace.consumed())


@pytest.mark.parametrize("outcome", [result(record(UNSAMPLED), late=True), letter(record(UNSAMPLED))])
def test_the_unusual_is_kept_whoever_decided_otherwise(outcome: Outcome) -> None:
    """What follows is told that the trace is recorded, so that it is not cut off here."""
    trace = Trace(SamplingPolicy(0.0))
    (headers,) = trace.publish(outcome)
    (span,) = trace.consumed()
    assert (UNSAMPLED, span.context.traceparent) == (span.parent, headers["traceparent"])
    assert b"-01" == span.context.traceparent[-3:]

    assert [UNSAMPLED.traceparent] == [headers["traceparent"] for headers in Trace(NOTHING).publish(outcome)]


def test_a_flood_of_late_results_is_not_all_kept() -> None:
    trace = Trace(SamplingPolicy(0.0))
    trace.publish(*[result(record(), late=True)] * 1000)
    assert MAX_KEPT_PER_SECOND == len(trace.consumed())
    trace.publish(*[result(record(), late=True)] * 1000, now=COMMITTED + 0.5)
    assert MAX_KEPT_PER_SECOND * 1.5 == len(trace.consumed())


def test_a_record_lasts_from_its_fetch_to_its_commit_and_its_stages_lie_within() -> None:
    trace = Trace()
    trace.publish(result(record(PARENT)))

    (span,) = trace.consumed()
    assert (ago(10.0), ago(COMMITTED)) == (span.began_ns, span.ended_ns)
    stages = [each for each in trace.spans if each.is_local]
    assert [
        ("queue", ago(10.0), ago(10.5)),
        ("batch", ago(10.5), ago(11.0)),
        ("engine", ago(11.0), ago(12.0)),
        ("publish", ago(12.5), ago(COMMITTED)),
    ] == [(each.name, each.began_ns, each.ended_ns) for each in stages]
    assert {span.context} == {each.parent for each in stages}
    assert 4 == len({each.context.span_id for each in stages} - {span.context.span_id})


def test_a_stage_that_took_no_time_has_no_span() -> None:
    trace = Trace()
    trace.publish(result(record(PARENT), waits=(Wait(10.0, 10.0, 10.0, 12.0),)))
    assert ["engine", "publish"] == [each.name for each in trace.spans if each.is_local]


def test_records_of_a_batch_link_to_its_one_span() -> None:
    trace = Trace()
    trace.publish(result(record(PARENT)), result(record(PARENT._replace(trace_id=5))))
    trace.publish(result(record(PARENT)), result(record(UNSAMPLED), batches=(replace(BATCH, number=8),)))

    (batch,) = [span for span in trace.spans if span.name == "run_batch m"]
    assert [[batch.context]] * 3 == [span.links for span in trace.consumed()]
    assert batch.parent is None
    assert (ago(11.0), ago(12.0), None) == (batch.began_ns, batch.ended_ns, batch.error)
    assert {
        "stream_infer.model": "m",
        "stream_infer.precision": "int8",
        "stream_infer.batch.items": 2,
        "stream_infer.batch.tokens": 40,
    } == batch.attributes


def test_what_came_from_the_cache_links_to_no_batch() -> None:
    trace = Trace()
    trace.publish(result(record(PARENT), waits=(), batches=()))
    assert ["process requests", "publish"] == [span.name for span in trace.spans]
    assert [] == trace.consumed()[0].links


def test_batches_are_not_remembered_for_ever() -> None:
    trace = Trace()
    batches = [replace(BATCH, number=number) for number in range(MAX_BATCHES + 1)]
    trace.publish(result(record(PARENT), batches=tuple(batches)))
    assert MAX_BATCHES == len(trace._tracer._batches)


def test_a_dead_letter_and_a_failed_batch_are_errors_by_their_reasons() -> None:
    trace = Trace()
    failed = replace(BATCH, error="out_of_memory")
    trace.publish(letter(record(PARENT, value=None), reason="model_failed", batches=(failed,)))

    assert {"process requests": "model_failed", "run_batch m": "out_of_memory"} == {
        span.name: span.error for span in trace.spans
    }
    assert all(span.error == span.attributes["error.type"] for span in trace.spans)
    (span,) = trace.consumed()
    assert (ago(12.0), ago(COMMITTED)) == (span.began_ns, span.ended_ns)
    assert ("decode", 0) == (span.attributes["stream_infer.stage"], span.attributes["stream_infer.attempts"])


def test_what_is_told_of_a_record_is_where_it_lay_and_nothing_of_its_content() -> None:
    trace = Trace()
    trace.publish(result(record(PARENT)), letter(record(PARENT)))
    span, _ = trace.consumed()
    assert {
        conventions.MESSAGING_SYSTEM: conventions.MessagingSystemValues.KAFKA.value,
        conventions.MESSAGING_OPERATION_NAME: "process",
        conventions.MESSAGING_OPERATION_TYPE: conventions.MessagingOperationTypeValues.PROCESS.value,
        conventions.MESSAGING_DESTINATION_NAME: "requests",
        conventions.MESSAGING_DESTINATION_PARTITION_ID: "3",
        conventions.MESSAGING_KAFKA_OFFSET: 42,
        conventions.MESSAGING_CONSUMER_GROUP_NAME: "g",
        conventions.MESSAGING_MESSAGE_BODY_SIZE: 11,
        "stream_infer.stream": "s",
        "stream_infer.model": "m",
        "stream_infer.late": False,
        "stream_infer.bus_seconds": 5.0,
    } == span.attributes
    assert "secret" not in repr(trace.spans)


def test_ids_are_told_only_where_asked() -> None:
    trace = Trace(with_ids=True)
    trace.publish(result(record(PARENT)))
    assert "secret id" == trace.consumed()[0].attributes[conventions.MESSAGING_MESSAGE_ID]


def test_names_are_those_of_the_conventions() -> None:
    assert error_attributes.ERROR_TYPE == names.ERROR_TYPE
    assert conventions.MESSAGING_KAFKA_MESSAGE_TOMBSTONE == names.TOMBSTONE


async def test_without_the_extra_the_start_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "stream_infer.tracing.exporter", None)
    monkeypatch.setenv("STREAM_INFER__TRACES__ENABLED", "true")
    with pytest.raises(ConfigError, match=r"pip install 'stream-infer\[traces\]'"):
        async with open_tracing(load_settings()):
            pass


async def test_traces_that_are_off_have_no_tracer() -> None:
    async with open_tracing(load_settings()) as tracing:
        assert (None, 0) == (tracing.tracer, tracing.dropped())


@pytest.mark.parametrize("arguments", [["--traceparent", "00-a"], []])
def test_send_takes_the_trace_it_belongs_to(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[str] = []

    async def send_one(*_: object, traceparent: str, **_rest: object) -> dict[str, object]:
        sent.append(traceparent)
        return {}

    monkeypatch.setattr(commands, "send_one", send_one)
    monkeypatch.setattr("stream_infer.cli.configure_logging", lambda *_, **__: None)
    environment = {} if arguments else {"TRACEPARENT": "00-a"}
    ran = CliRunner().invoke(app, ["send", "classify", "text", *arguments], env=environment)
    assert (0, ["00-a"]) == (ran.exit_code, sent)


@pytest.mark.slow
def test_a_worker_without_traces_does_not_load_the_library() -> None:
    script = (
        "import sys; sys.modules['opentelemetry'] = None; import stream_infer.service.worker as w; w.Worker"
    )
    subprocess.run([sys.executable, "-c", script], check=True)  # noqa: S603 - our own
