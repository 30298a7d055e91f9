"""Records to requests and outcomes to records: tolerant of everything, silent about texts."""

import json
import math
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream_infer.bus.batches import OutRecord
from stream_infer.bus.client_codec import (
    decode_dead_letter,
    decode_result,
    encode_document,
    encode_request,
    outcome_id,
)
from stream_infer.bus.codec import (
    MAX_ERROR_CHARS,
    ResultEncoder,
    deadline_of,
    decode_request,
    encode_bare_dead_letter,
    encode_dead_letter,
    record_id,
)
from stream_infer.config import BUILTIN_STREAMS, ServiceSettings, StreamSettings
from stream_infer.errors import (
    EmptyTextError,
    InvalidFieldError,
    MalformedRecordError,
    RecordError,
    TooLargeError,
    UnknownTaskError,
)
from stream_infer.schemas import (
    AnswerBody,
    Body,
    ClassifyBody,
    DeadLetter,
    ModelInfo,
    Record,
    Request,
    Result,
    Stages,
    TranslateBody,
)
from stream_infer.text import prepare_layout, prepare_text

LIMITS = ServiceSettings(max_record_bytes=2_000, max_text_chars=500)
INFO = ModelInfo("sentiment", "builtin:sentiment", "r7", "int8", "cpu", 256)
TYPED = "the text nobody may see"


def record(value: bytes | None, *headers: tuple[str, bytes | None], timestamp_ms: int = 1_000) -> Record:
    return Record("requests.classify", 1, 42, timestamp_ms, b"key", value, headers)


def decode(given_record: Record, stream: str = "classify") -> Request:
    return decode_request(given_record, stream, BUILTIN_STREAMS[stream], LIMITS, now=100.0, wall_ms=1_000)


def packed(**fields: Any) -> Record:
    return record(msgpack.packb(fields))


def read_back(out: OutRecord) -> Record:
    """Return what a consumer of the output topic gets."""
    return Record(out.topic, 0, 7, 1_000, out.key, out.value, tuple(out.headers))


@pytest.mark.parametrize(
    ("stream", "fields", "body"),
    [
        ("classify", {"text": " a  &amp; b "}, ClassifyBody("a & b")),
        ("classify", {"text": "x", "unknown": [1, {"deep": None}]}, ClassifyBody("x")),
        ("translate", {"text": "hi"}, TranslateBody("hi")),
        ("translate", {"text": "hi", "source": "en", "target": "pt-BR"}, TranslateBody("hi", "en", "pt-BR")),
        (
            "translate",
            {"text": "hi", "source": None, "target": "por_Latn"},
            TranslateBody("hi", None, "por_Latn"),
        ),
        ("answer", {"question": "who?"}, AnswerBody("who?")),
        (
            "answer",
            {"question": "who?", "context": " a\nb", "collection": "c", "top_k": 50},
            AnswerBody("who?", " a\nb", "c", 50),
        ),
    ],
)
@pytest.mark.parametrize("form", ["msgpack", "json", "json with spaces"])
def test_each_task_has_its_body(stream: str, fields: dict[str, Any], body: Body, form: str) -> None:
    value = {
        "msgpack": msgpack.packb(fields),
        "json": json.dumps(fields).encode(),
        "json with spaces": b"\n " + json.dumps(fields, ensure_ascii=False, indent=1).encode(),
    }[form]

    assert body == decode(record(value), stream).body


def test_a_bare_record_gets_its_position_as_id() -> None:
    request = decode(packed(text="x"))

    assert "requests.classify/1/42" == request.id
    assert ("classify", 100.0) == (request.stream, request.arrived)


def test_cloudevents_headers_are_read() -> None:
    headers = (
        ("ce_id", b"id-1"),
        ("ce_type", b"stream_infer.classify.request.v1"),
        ("content-type", b"application/json"),
    )

    assert "id-1" == decode(record(b'{"text": "x"}', *headers)).id


def test_types_of_other_vocabularies_are_the_producers_own() -> None:
    assert decode(record(b'{"text": "x"}', ("ce_type", b"com.example.review.written")))


@pytest.mark.parametrize(
    ("value", "error", "message"),
    [
        (None, MalformedRecordError, "no value"),
        (b"", MalformedRecordError, "empty"),
        (b"\xc1", MalformedRecordError, "neither a msgpack map"),
        (b"plain text", MalformedRecordError, "the value"),
        (msgpack.packb([TYPED]), MalformedRecordError, "a list, not a map"),
        (msgpack.packb(TYPED), MalformedRecordError, "a string, not a map"),
        (msgpack.packb({"text": TYPED}) + b"\x00", MalformedRecordError, "goes on after the end"),
        (msgpack.packb({"text": TYPED})[:-1], MalformedRecordError, "neither a msgpack map"),
        (msgpack.packb({1: TYPED}), MalformedRecordError, "string keys"),
        (b"\x81\xa4text\xa2\xff\xfe", MalformedRecordError, "not valid UTF-8"),
        (b"\x91" * 1_999 + b"\xc0", MalformedRecordError, "nested too deeply"),
        (b'{"text": "' + b"\xff" + b'"}', MalformedRecordError, "not valid UTF-8"),
        (b'{"text": "\\ud800"}', MalformedRecordError, "field 'text' holds half of a surrogate pair"),
        (b'{"text": "x"', MalformedRecordError, "not valid JSON"),
        (b'{"text": "x"} {}', MalformedRecordError, "not valid JSON: Extra data"),
        (b'{"text": "x", "score": NaN}', MalformedRecordError, "NaN"),
        (b'{"text": "x", "n": ' + b"9" * 1_900 + b"e9}", None, ""),
        (b'{"a":' * 390, MalformedRecordError, "not valid JSON"),
        (b"{}", EmptyTextError, "field 'text' is missing"),
        (b'{"text": null}', EmptyTextError, "field 'text' is missing"),
        (b'{"text": ""}', EmptyTextError, "field 'text' is empty"),
        (b'{"text": " \\u200b\\n&nbsp;"}', EmptyTextError, "field 'text' is empty"),
        (b'{"text": 5}', InvalidFieldError, "field 'text' is an integer, not a string"),
        (b'{"text": true}', InvalidFieldError, "field 'text' is a boolean, not a string"),
        (b'{"text": 1.5}', InvalidFieldError, "field 'text' is a number, not a string"),
        (b'{"text": {"a": 1}}', InvalidFieldError, "field 'text' is a map, not a string"),
        (msgpack.packb({"text": TYPED.encode()}), InvalidFieldError, "field 'text' is bytes, not a string"),
        (
            msgpack.packb({"text": "x" * 501}),
            TooLargeError,
            "field 'text' has 501 characters, the limit is 500",
        ),
        (msgpack.packb({"text": "x" * 2_001}), TooLargeError, "bytes, the limit is 2000"),
    ],
)
def test_faulty_values_are_named(value: bytes | None, error: type[RecordError] | None, message: str) -> None:
    if error is None:
        assert decode(record(value or b'{"text": "x"}'))
        return
    with pytest.raises(error, match=message) as raised:
        decode(record(value))

    assert TYPED not in str(raised.value)


def test_json_nested_beyond_the_decoder_is_malformed() -> None:
    limits = ServiceSettings(max_record_bytes=1_000_000)
    value = b'{"text":' + b"[" * 200_000

    with pytest.raises(MalformedRecordError, match="nested too deeply"):
        decode_request(record(value), "classify", BUILTIN_STREAMS["classify"], limits, now=0.0, wall_ms=0)


@pytest.mark.parametrize(
    ("fields", "error", "message"),
    [
        ({"question": "q", "top_k": True}, InvalidFieldError, "field 'top_k' is a boolean, not an integer"),
        ({"question": "q", "top_k": 3.0}, InvalidFieldError, "field 'top_k' is a number, not an integer"),
        ({"question": "q", "top_k": 0}, InvalidFieldError, "field 'top_k' is not between 1 and 50"),
        ({"question": "q", "top_k": 2**63}, InvalidFieldError, "field 'top_k' is not between 1 and 50"),
        ({"question": "q", "context": " "}, EmptyTextError, "field 'context' is empty"),
        ({"question": "q", "context": 1}, InvalidFieldError, "field 'context' is an integer"),
        ({"question": "q", "collection": ""}, InvalidFieldError, "field 'collection' has 0 characters"),
        (
            {"question": "q", "collection": "c" * 257},
            InvalidFieldError,
            "field 'collection' has 257 characters",
        ),
        ({"text": "no question"}, EmptyTextError, "field 'question' is missing"),
    ],
)
def test_faulty_questions_are_named(fields: dict[str, Any], error: type[RecordError], message: str) -> None:
    with pytest.raises(error, match=message):
        decode(packed(**fields), "answer")


@pytest.mark.parametrize("language", ["", "e", "english!", "en_", 5, "x" * 500])
def test_faulty_languages_are_named(language: object) -> None:
    with pytest.raises(InvalidFieldError, match="field 'target'"):
        decode(packed(text="hi", target=language), "translate")


@pytest.mark.parametrize(
    ("header", "error", "message"),
    [
        (("ce_type", b"stream_infer.translate.request.v1"), UnknownTaskError, "classify.request.v1"),
        (("ce_type", b"stream_infer.classify.request.v2"), UnknownTaskError, "classify.request.v1"),
        (("ce_id", b"\xff"), InvalidFieldError, "'ce_id' is not valid UTF-8"),
        (("ce_id", b""), InvalidFieldError, "'ce_id' has 0 characters"),
        (("ce_id", b"x" * 257), InvalidFieldError, "'ce_id' has 257 characters"),
        (("content-type", b"application/json"), MalformedRecordError, "not valid"),
    ],
)
def test_faulty_headers_are_named(header: tuple[str, bytes], error: type[RecordError], message: str) -> None:
    given_record = record(msgpack.packb({"text": "x"}), header)

    with pytest.raises(error, match=message):
        decode(given_record)
    expected = given_record.position if header[0] == "ce_id" else record_id(given_record)
    assert expected == record_id(given_record)


def test_unknown_headers_without_sense_are_ignored() -> None:
    headers = [("x" * 1_000, b"\xff" * 1_000), ("", None), ("ce_id", None), ("ce_type", b"\xff")]

    assert "requests.classify/1/42" == decode(record(b'{"text": "x"}', *headers)).id


@pytest.mark.parametrize(
    ("timestamp_ms", "deadline"),
    [
        (1_000, 100.5),  # written as it arrived
        (900, 100.4),  # written 100 ms before
        (0, 99.5),  # late already
        (1_000_000, 100.5),  # from the future
        (-1, 100.5),  # none
        (-(2**63), 100.5),
        (2**63 - 1, 100.5),
    ],
)
def test_the_deadline_counts_from_the_producers_clock(timestamp_ms: int, deadline: float) -> None:
    stream = BUILTIN_STREAMS["classify"]

    assert math.isclose(
        deadline, deadline_of(record(b"", timestamp_ms=timestamp_ms), stream, now=100.0, wall_ms=1_000)
    )


def test_a_result_carries_where_it_came_from() -> None:
    encoder = ResultEncoder(BUILTIN_STREAMS["classify"], INFO, "reviews")
    source = record(
        b"", ("traceparent", b"00-trace"), ("tracestate", b"s"), ("own", b"x"), ("ce_id", b"other")
    )
    stages = Stages(bus=0.0015, queue=0.002, batch=0.004, engine=0.25, total=0.2575)

    out = encoder.encode(
        Result(source, "id-1", "reviews", {"label": "good", "score": 0.5}, "sentiment", stages, late=True)
    )

    assert ("results.classify", b"key") == (out.topic, out.key)
    assert {"id": "id-1", "label": "good", "score": 0.5} == msgpack.unpackb(out.value or b"")
    assert {
        "content-type": b"application/msgpack",
        "ce_specversion": b"1.0",
        "ce_type": b"stream_infer.classify.result.v1",
        "ce_source": b"/stream_infer/reviews",
        "ce_id": b"id-1",
        "model": b"sentiment",
        "model_revision": b"r7",
        "precision": b"int8",
        "source_topic": b"requests.classify",
        "source_partition": b"1",
        "source_offset": b"42",
        "server-timing": b"bus;dur=1.500, queue;dur=2.000, batch;dur=4.000, engine;dur=250.000, "
        b"total;dur=257.500",
        "late": b"true",
        "traceparent": b"00-trace",
        "tracestate": b"s",
    } == dict(out.headers)


def test_an_answer_names_the_model_that_read_the_passages() -> None:
    reader = ModelInfo("writer", "package:x", "r8", "bf16", "cpu", 256)
    encoder = ResultEncoder(BUILTIN_STREAMS["answer"], INFO, "answer", reader)

    headers = dict(encoder.encode(Result(record(b""), "id", "answer", {}, "sentiment")).headers)

    assert (b"writer", b"r8", b"bf16") == (
        headers["reader"],
        headers["reader_revision"],
        headers["reader_precision"],
    )
    assert b"sentiment" == headers["model"]


def test_a_result_in_time_does_not_say_late() -> None:
    encoder = ResultEncoder(BUILTIN_STREAMS["classify"], INFO, "classify")

    assert "late" not in dict(encoder.encode(Result(record(b""), "id", "classify", {}, "sentiment")).headers)


def test_a_stream_may_answer_in_json() -> None:
    stream = BUILTIN_STREAMS["classify"].model_copy(update={"response_format": "json"})

    out = ResultEncoder(stream, INFO, "classify").encode(
        Result(record(b""), "id", "classify", {"text": "ção"}, "m")
    )

    assert '{"id":"id","text":"ção"}'.encode() == out.value
    assert b"application/json" == dict(out.headers)["content-type"]


def letter_for(source: Record, error: str = "broken") -> DeadLetter:
    return DeadLetter(source, "id-1", "classify", "malformed", error, "decode", 2)


def test_a_dead_letter_keeps_the_original_whole() -> None:
    source = record(b"\xff", ("own", b"x"), ("none", None), ("own", b"again"))

    out = encode_dead_letter(letter_for(source), "dead-letters")

    assert ("dead-letters", b"key", b"\xff") == (out.topic, out.key, out.value)
    assert [("own", b"x"), ("none", None), ("own", b"again")] == out.headers[:3]
    assert {
        "dead_letter_reason": b"malformed",
        "dead_letter_error": b"broken",
        "dead_letter_id": b"id-1",
        "dead_letter_stream": b"classify",
        "dead_letter_stage": b"decode",
        "dead_letter_attempts": b"2",
        "dead_letter_topic": b"requests.classify",
        "dead_letter_partition": b"1",
        "dead_letter_offset": b"42",
        "dead_letter_timestamp_ms": b"1000",
    } == dict(out.headers[3:])


def test_a_dead_letter_of_a_dead_letter_names_the_last_reason_only() -> None:
    first = read_back(encode_dead_letter(letter_for(record(b"v", ("own", b"x"))), "dead-letters"))

    second = encode_dead_letter(letter_for(first, "again"), "dead-letters")

    assert len(second.headers) == len(first.headers)
    assert b"again" == dict(second.headers)["dead_letter_error"]


def test_the_error_of_a_dead_letter_is_bounded() -> None:
    out = encode_dead_letter(letter_for(record(b""), "x" * 100_000), "dead-letters")

    assert MAX_ERROR_CHARS == len(dict(out.headers)["dead_letter_error"] or b"")


def test_a_bare_dead_letter_says_what_it_left_out() -> None:
    original = record(b"x" * 1_000_000, ("own", b"x" * 1_000_000))
    out = encode_bare_dead_letter(letter_for(original), "dead-letters")

    assert (original.key, None) == (out.key, out.value)
    assert sum(len(name) + len(value or b"") for name, value in out.headers) < 1_000
    assert b"value,headers" == dict(out.headers)["dead_letter_omitted"]
    assert "id-1" == decode_dead_letter(read_back(out)).id


def test_a_bare_dead_letter_of_a_huge_key_goes_without_it() -> None:
    original = record(b"x")._replace(key=b"k" * 1_000_000)
    out = encode_bare_dead_letter(letter_for(original), "dead-letters")

    assert out.key is None
    assert b"key,value,headers" == dict(out.headers)["dead_letter_omitted"]


@pytest.mark.parametrize("value", [b"", b"\xff", b"{}"])
def test_foreign_records_are_no_outcomes(value: bytes) -> None:
    for decode_outcome in (decode_result, decode_dead_letter):
        with pytest.raises(MalformedRecordError, match=r"requests\.classify/1/42"):
            decode_outcome(record(value, ("ce_id", b"id")))


def test_a_document_is_named_by_its_key() -> None:
    out = encode_document("documents", "a/b", "text", collection="c", title="t")

    assert b"c/a%2Fb" == out.key
    assert {"document": "a/b", "collection": "c", "title": "t", "text": "text"} == msgpack.unpackb(
        out.value or b""
    )
    assert None is encode_document("documents", "a/b", None).value


HEADERS = st.lists(
    st.tuples(
        st.sampled_from(["ce_id", "ce_type", "content-type", "traceparent", "dead_letter_id", "x"]),
        st.none()
        | st.binary(max_size=300)
        | st.sampled_from([b"application/json", b"stream_infer.classify.request.v1"]),
    ),
    max_size=6,
)
JSON_VALUES: st.SearchStrategy[object] = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | st.just([{}])
)
FIELDS = st.dictionaries(
    st.sampled_from(["text", "question", "context", "collection", "top_k", "source", "target", "x"]),
    JSON_VALUES,
)
VALUES = (
    st.none()
    | st.binary(max_size=400)
    | FIELDS.map(lambda fields: json.dumps(fields).encode())
    | st.binary(max_size=60).map(lambda tail: b'{"text": ' + tail)
    | st.binary(max_size=60).map(lambda tail: b"\x81\xa4text" + tail)
    | st.binary(max_size=60).map(lambda tail: b"\xdf\xff\xff\xff\xff" + tail)
)


@given(
    value=VALUES, headers=HEADERS, stream=st.sampled_from(sorted(BUILTIN_STREAMS)), timestamp_ms=st.integers()
)
def test_nothing_but_a_record_error_is_ever_raised(
    value: bytes | None, headers: list[tuple[str, bytes | None]], stream: str, timestamp_ms: int
) -> None:
    given_record = record(value, *headers, timestamp_ms=timestamp_ms)
    try:
        request = decode(given_record, stream)
    except RecordError as fault:
        error = str(fault)
        letter = DeadLetter(given_record, record_id(given_record), stream, fault.reason, error, "decode")
    else:
        assert request.deadline <= 100.5
        assert request.id
        return

    assert len(error) < 300
    assert letter.id == decode_dead_letter(read_back(encode_dead_letter(letter, "dead-letters"))).id


TEXTS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=100).filter(prepare_text)
NAMES = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)
BODIES: st.SearchStrategy[Body] = (
    st.builds(ClassifyBody, TEXTS)
    | st.builds(TranslateBody, TEXTS, st.none() | st.just("en"), st.none() | st.just("pt-BR"))
    | st.builds(AnswerBody, TEXTS, st.none() | TEXTS, st.none() | NAMES, st.none() | st.integers(1, 50))
)


def prepared(body: Body) -> Body:
    match body:
        case ClassifyBody(text):
            return ClassifyBody(prepare_text(text))
        case TranslateBody(text, source, target):
            return TranslateBody(prepare_layout(text), source, target)
        case AnswerBody(question, context, collection, top_k):
            return AnswerBody(prepare_text(question), context, collection, top_k)


@given(
    body=BODIES,
    identity=NAMES,
    key=st.none() | st.binary(max_size=20),
    form=st.sampled_from(["msgpack", "json"]),
)
def test_decoding_inverts_the_clients_encoding(
    body: Body, identity: str, key: bytes | None, form: Any
) -> None:
    stream = {ClassifyBody: "classify", TranslateBody: "translate", AnswerBody: "answer"}[type(body)]
    out = encode_request(body, "requests", identity, key=key, form=form, traceparent="00-trace")

    request = decode(read_back(out), stream)

    assert (prepared(body), identity, key) == (request.body, request.id, request.record.key)


MILLISECONDS = st.integers(0, 10**6).map(lambda ms: ms / 1e3)
FINITE = st.floats(allow_nan=False, allow_infinity=False)
RESULT_BODIES = st.dictionaries(
    NAMES.filter(lambda name: name != "id"),
    st.none() | st.booleans() | FINITE | NAMES | st.lists(NAMES),
    max_size=5,
)


@given(
    fields=RESULT_BODIES,
    identity=NAMES,
    stages=st.builds(Stages, *[MILLISECONDS] * 5),
    late=st.booleans(),
    form=st.sampled_from(["msgpack", "json"]),
)
def test_the_clients_decoding_inverts_the_services_encoding(
    fields: dict[str, object], identity: str, stages: Stages, *, late: bool, form: str
) -> None:
    settings: StreamSettings = BUILTIN_STREAMS["classify"].model_copy(update={"response_format": form})
    result = Result(record(b"value"), identity, "reviews", fields, "sentiment", stages, late)

    out = read_back(ResultEncoder(settings, INFO, "reviews").encode(result))

    found = decode_result(out)
    assert identity == outcome_id(out)
    assert (result.id, result.stream, result.body, result.model, result.late) == (
        found.id,
        found.stream,
        found.body,
        found.model,
        found.late,
    )
    assert result.record.position == found.record.position
    for name in ("bus", "queue", "batch", "engine", "total"):
        assert math.isclose(getattr(stages, name), getattr(found.stages, name), abs_tol=1e-6)


def test_stages_of_another_version_are_passed_over() -> None:
    out = read_back(
        ResultEncoder(BUILTIN_STREAMS["classify"], INFO, "s").encode(Result(record(b""), "i", "s", {}, "m"))
    )
    timing = ("server-timing", b"bus;dur=1, queue;dur=2, warp;dur=3, total;dur=9")
    headers = [header for header in out.headers if header[0] != "server-timing"]

    found = decode_result(out._replace(headers=[*headers, timing]))

    assert Stages(bus=0.001, queue=0.002, total=0.009) == found.stages


@given(
    headers=HEADERS,
    value=st.none() | st.binary(max_size=50),
    identity=NAMES,
    error=NAMES,
    attempts=st.integers(0, 9),
)
def test_a_dead_letter_is_read_back_as_it_was(
    headers: list[tuple[str, bytes | None]], value: bytes | None, identity: str, error: str, attempts: int
) -> None:
    source = record(value, *(header for header in headers if header[0] != "dead_letter_id"))
    letter = DeadLetter(source, identity, "classify", "model_failed", error, "engine", attempts)

    out = read_back(encode_dead_letter(letter, "dead-letters"))

    assert letter == decode_dead_letter(out)
    assert identity == outcome_id(out)
