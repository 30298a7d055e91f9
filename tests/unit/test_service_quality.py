"""A worker shows what the topic of quality says of the models that it runs, and of nothing else."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import replace
from math import isfinite
from typing import Any, Self

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import CapturingLogger

from stream_infer.config import BUILTIN_MODELS, BUILTIN_STREAMS
from stream_infer.errors import BusError, ConfigError, RecordError
from stream_infer.metrics import Metrics
from stream_infer.schemas import ModelInfo, Record
from stream_infer.service import following
from stream_infer.service.quality import MAX_LABELS, QualityBoard, read_quality
from tests.unit.quality_records import CONFUSION, INFO, record_of


def shown(*records: Record, info: ModelInfo = INFO) -> dict[tuple[str, str | None], float]:
    """Return what a worker that runs one model exports of its quality, by metric and label."""
    metrics = Metrics(BUILTIN_STREAMS, BUILTIN_MODELS)
    board = QualityBoard({info.name: info})
    board.show(metrics)
    for record in records:
        board.take(record)
    return {
        (sample.name.removeprefix("stream_infer_quality_"), sample.labels.get("label")): sample.value
        for family in metrics.registry.collect()
        for sample in family.samples
        if sample.name.startswith("stream_infer_quality_")
    }


def broken(**changes: Any) -> bytes:
    packed: bytes = msgpack.packb(msgpack.unpackb(record_of().value or b"") | changes)
    return packed


def test_what_was_published_is_shown() -> None:
    """A label without a figure has no gauge, and a label that only people know has none at all."""
    found = shown(record_of())

    assert (10, 0.7) == (found["pairs", None], found["accuracy_ratio", None])
    assert pytest.approx((12 / 15 + 2 / 4 + 0) / 3) == found["macro_f1_ratio", None]
    assert 6 / 7 == found["precision_ratio", "positive"]
    assert 6 / 8 == found["recall_ratio", "positive"]
    assert 12 / 15 == found["f1_ratio", "positive"]
    assert {None, "positive", "neutral"} == {label for _, label in found}


def test_nothing_is_shown_before_anything_is_published() -> None:
    assert not shown()


def test_the_last_record_stands() -> None:
    found = shown(record_of(), record_of(Counter({("neutral", "neutral"): 3})))

    assert (3, 1.0) == (found["pairs", None], found["accuracy_ratio", None])
    assert ("f1_ratio", "positive") not in found


def test_pairs_that_grew_too_old_leave_no_figures_behind() -> None:
    assert {("pairs", None): 0.0} == shown(record_of(), record_of(Counter()))


@pytest.mark.parametrize("stranger", [{"model": "other"}, {"revision": "r0"}])
def test_models_and_revisions_that_are_not_run_are_not_shown(stranger: dict[str, str]) -> None:
    other = record_of(Counter({("neutral", "neutral"): 3}), **stranger)

    assert not shown(other)
    assert 10 == shown(record_of(), other)["pairs", None]


def test_labels_are_bounded_by_the_models_own() -> None:
    labels = tuple(f"l{number}" for number in range(MAX_LABELS + 5))
    pairs = Counter({(label, label): 1 for label in labels})

    found = shown(record_of(pairs), info=replace(INFO, labels=labels))

    assert set(labels[:MAX_LABELS]) == {label for _, label in found if label is not None}


@pytest.mark.parametrize(
    "value",
    [
        b"not msgpack",
        broken(model=7),
        broken(revision=None),
        broken(labels=[]),
        broken(labels={"positive": 1}),
        broken(labels={"positive": {"f1": "high"}}),
        broken(accuracy=float("nan")),
        broken(pairs=True),
    ],
)
def test_a_record_that_cannot_be_read_is_passed_over(value: bytes) -> None:
    with pytest.raises(RecordError):
        read_quality(value)
    spoilt = Record("quality", 0, 1, 0, b"sentiment@r1", value)

    assert shown(record_of()) == shown(record_of(), spoilt)


def test_a_deleted_record_says_nothing() -> None:
    assert shown(record_of()) == shown(record_of(), Record("quality", 0, 1, 0, b"sentiment@r1", None))


@given(
    st.dictionaries(
        st.sampled_from(["pairs", "accuracy", "macro_f1"]),
        st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.floats() | st.text(),
    )
)
def test_whatever_stands_there_is_read_or_refused(fields: dict[str, Any]) -> None:
    try:
        quality = read_quality(broken(**fields))
    except RecordError:
        return
    assert all(isfinite(figure) for figure in quality.figures.values())


def test_figures_are_those_that_the_role_computes() -> None:
    quality = read_quality(record_of().value or b"")

    assert CONFUSION.total() == quality.figures["pairs"]
    assert {"joy", "neutral", "positive"} == set(quality.labels)


class Follower:
    """Follows a topic that is not there, then one that the broker refuses, then one with a record."""

    def __init__(self, ends: list[Exception]) -> None:
        self._ends = ends

    def __call__(self, connection: object, topics: list[str]) -> Follower:
        """Stand in for the class."""
        assert (None, ["quality"]) == (connection, topics)
        return self

    async def __aenter__(self) -> Self:
        if self._ends:
            raise self._ends.pop(0)
        return self

    async def __aexit__(self, *_: object) -> None:
        """Leave nothing behind."""

    async def __aiter__(self) -> AsyncIterator[list[Record]]:
        yield [record_of()]
        raise asyncio.CancelledError


async def test_a_topic_that_cannot_be_followed_is_looked_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """That it is missing is said once, however often it was looked for."""
    missing = [ConfigError("no topic"), ConfigError("no topic"), BusError("refused")]
    monkeypatch.setattr(following, "TopicFollower", Follower([*missing]))
    monkeypatch.setattr(following, "QUALITY_PAUSE", 0)
    logger = CapturingLogger()
    monkeypatch.setattr(following, "log", logger)
    metrics = Metrics(BUILTIN_STREAMS, BUILTIN_MODELS)
    board = QualityBoard({INFO.name: INFO})
    board.show(metrics)
    connection: Any = None

    with pytest.raises(asyncio.CancelledError):
        await following.follow_quality(connection, "quality", board)

    assert ["no topic", "refused"] == [call.kwargs["error"] for call in logger.calls]
    assert 10 == metrics.registry.get_sample_value("stream_infer_quality_pairs", {"model": INFO.name})
