"""Labels: feedback, observations, what is counted of them, and quality as workers read it."""

from __future__ import annotations

from dataclasses import asdict

import msgpack

from stream_infer.bus.values import decode_value
from stream_infer.errors import RecordError, StreamInferError
from stream_infer.schemas import Record
from stream_infer.service.quality import read_quality
from stream_infer.streams.observations import (
    Feedback,
    LabelledResult,
    Position,
    decode_observation,
    encode_observation,
    observe_feedback,
    observe_result,
)
from stream_infer.streams.quality import RollingQuality, decode_statements, encode_statements, quality_record
from stream_infer.streams.trends import LabelTrends, WindowName, decode_window, encode_window, trend_record
from tests.fuzz.feed import Feed
from tests.fuzz.target import Target, attempt

_WINDOW_MS = 1_000


def check_feedback(data: bytes) -> None:
    """A record is an observation that is read as it is written, or refused."""
    record = Feed(data).record()
    attempt(RecordError, observe_result, record)
    feedback = attempt(RecordError, observe_feedback, record)
    if feedback is not None:
        written = encode_observation(feedback, "observations")
        assert feedback == decode_observation(Record("o", 0, 0, 0, None, written.value))


def check_observations(data: bytes) -> None:
    """Whatever lies on the topic is counted or refused; what is counted can be published and stored."""
    feed = Feed(data)
    trends, quality = LabelTrends(_WINDOW_MS, 0), RollingQuality(10 * _WINDOW_MS, 3)
    values = [feed.piece() for _ in range(1 + feed.below(4))]
    for value in (*values, feed.rest()):
        observation = attempt(RecordError, decode_observation, Record("o", 0, 0, 0, None, value))
        if observation is None:
            continue
        if isinstance(observation, LabelledResult):
            trends.add(observation)
        quality.add(observation)
    for name, window in trends.take_changes():
        assert name == WindowName.of_key(name.key)
        if window is not None:
            trend_record(name, window, "trends")
            assert window == decode_window(encode_window(window))
    for model, confusion in quality.take_changed_models().items():
        told = quality_record(model, confusion, _WINDOW_MS, "quality")
        if told.value is not None and confusion:
            read_quality(told.value)
    for said in quality.take_changed_ids().values():
        if said:
            assert list(said.values()) == decode_statements(encode_statements(said))


def check_quality(data: bytes) -> None:
    """A value is quality with figures that are numbers, or refused."""
    found = attempt(StreamInferError, read_quality, data)
    if found is not None:
        shares = [*found.figures.values(), *(f for label in found.labels.values() for f in label.values())]
        assert all(isinstance(share, int | float) for share in shares)


_GIVEN = LabelledResult(Position("results.classify", 0, 5), 1_500, "a", "good", "classify", "mood", "r1")
_SAID = Feedback(Position("feedback", 0, 2), 1_700, "a", "bad")
_PACKED = [msgpack.packb(asdict(each)) for each in (_GIVEN, _SAID)]
_QUALITY = {
    "model": "mood",
    "revision": "r1",
    "pairs": 2,
    "accuracy": 0.5,
    "macro_f1": None,
    "labels": {"good": {"precision": 1.0, "recall": None, "f1": 0.5, "support": 1}},
}
assert decode_value(_PACKED[0], None)
TARGETS = (
    Target("feedback", check_feedback, (bytes(18) + b"\0\1" + b'{"id": "a", "label": "bad"}',)),
    Target(
        "observations",
        check_observations,
        (b"\0" + bytes([len(_PACKED[0])]) + _PACKED[0] + _PACKED[1], b"\0\0" + _PACKED[0]),
    ),
    Target("quality", check_quality, (msgpack.packb(_QUALITY),), max_bytes=256),
)
