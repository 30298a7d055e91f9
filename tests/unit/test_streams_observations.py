"""Results and feedback become observations, and what is neither is told."""

import msgpack
import pytest

from stream_infer.bus.batches import OutRecord
from stream_infer.bus.client_codec import encode_feedback
from stream_infer.bus.codec import ResultEncoder
from stream_infer.bus.topics import load_specs
from stream_infer.config import BUILTIN_STREAMS
from stream_infer.errors import MalformedRecordError, RecordError
from stream_infer.schemas import ModelInfo, Record, Result
from stream_infer.streams.observations import (
    Feedback,
    LabelledResult,
    Position,
    decode_observation,
    encode_observation,
    observe_feedback,
    observe_result,
)

INFO = ModelInfo("mood", "source", "r1", "int8", "cpu", 128)
RESULT = LabelledResult(Position("t", 1, 7), 99, "id-1", "good", "posts", "mood", "r1")
FEEDBACK = Feedback(Position("t", 1, 7), 99, "id-1", "bad")


def read(out: OutRecord) -> Record:
    return Record("t", 1, 7, 99, out.key, out.value, tuple(out.headers))


def published(body: dict[str, object]) -> Record:
    source = Record("requests", 0, 3, 5, None, None)
    encoder = ResultEncoder(BUILTIN_STREAMS["classify"], INFO, "posts")
    return read(encoder.encode(Result(source, "id-1", "posts", body, "mood")))


def test_a_result_is_observed_where_and_when_it_was_published() -> None:
    assert RESULT == observe_result(published({"label": "good", "score": 0.9}))


def test_what_clients_say_is_observed() -> None:
    assert FEEDBACK == observe_feedback(read(encode_feedback("t", "id-1", "bad")))


@pytest.mark.parametrize("observation", [RESULT, FEEDBACK])
def test_observations_are_read_as_they_were_written(observation: LabelledResult | Feedback) -> None:
    assert observation == decode_observation(read(encode_observation(observation, "observations")))


@pytest.mark.parametrize("observation", [RESULT, FEEDBACK])
def test_observations_have_the_declared_fields(observation: LabelledResult | Feedback) -> None:
    declared = next(spec for spec in load_specs() if spec.name == "observations").body
    written = msgpack.unpackb(encode_observation(observation, "observations").value or b"")

    assert written.keys() <= declared.keys()
    assert written.keys() >= {name for name, field in declared.items() if field.required}


@pytest.mark.parametrize("body", [{"text": "a translation"}, {"label": 7}])
def test_other_results_are_told(body: dict[str, object]) -> None:
    with pytest.raises(MalformedRecordError):
        observe_result(published(body))


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (None, "malformed"),
        (b"\xc1", "malformed"),
        (b'{"id": "x"}', "invalid_field"),
        (b'{"id": "x", "label": 7}', "invalid_field"),
        (b'{"id": "", "label": "a"}', "invalid_field"),
        (msgpack.packb({"id": "x", "label": "a" * 257}), "invalid_field"),
    ],
)
def test_bad_feedback_has_a_reason(value: bytes | None, reason: str) -> None:
    with pytest.raises(RecordError) as caught:
        observe_feedback(Record("feedback", 0, 0, 0, None, value))
    assert reason == caught.value.reason


@pytest.mark.parametrize("value", [None, b"\xc1", b"{}", msgpack.packb({"id": "x", "position": 3})])
def test_what_is_no_observation_is_told(value: bytes | None) -> None:
    with pytest.raises(MalformedRecordError):
        decode_observation(Record("observations", 0, 0, 0, None, value))
