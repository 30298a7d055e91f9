"""Rolling quality agrees with scikit-learn over the pairs that count, in whatever order they came."""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, precision_recall_fscore_support

from stream_infer.streams.observations import Feedback, LabelledResult, Observation, Position
from stream_infer.streams.quality import (
    Confusion,
    Model,
    RollingQuality,
    Statements,
    decode_statements,
    encode_statements,
    quality_record,
    score_labels,
)

WINDOW = 1_000
MODEL = Model("mood", "r1")
DRAWN = st.tuples(
    st.sampled_from(["feedback", "one", "two"]),
    st.sampled_from("uvwxyz"),
    st.sampled_from("abc"),
    st.integers(0, 3_000),
)
PAIRS = st.lists(st.tuples(st.sampled_from("abcd"), st.sampled_from("abcd")), min_size=1)


def result(
    identity: str, label: str, timestamp_ms: int = 100, *, offset: int = 0, stream: str = "one"
) -> LabelledResult:
    position = Position("results", 0, offset)
    return LabelledResult(position, timestamp_ms, identity, label, stream, "mood", "r1")


def feedback(identity: str, label: str, timestamp_ms: int = 100, *, offset: int = 0) -> Feedback:
    return Feedback(Position("feedback", 0, offset), timestamp_ms, identity, label)


def confusion_after(observations: Iterable[Observation], *, max_ids: int = 1_000) -> Confusion:
    quality = RollingQuality(WINDOW, max_ids)
    for observation in observations:
        quality.add(observation)
    return quality.take_changed_models().get(MODEL, Counter())


def restored(stored: dict[bytes, bytes], observations: Iterable[Observation]) -> RollingQuality:
    quality = RollingQuality(WINDOW, 1_000, stored.items())
    for observation in observations:
        quality.add(observation)
    return quality


def recount(observations: Sequence[Observation]) -> Confusion:
    """Join and count everything at once, as a batch job would."""
    newest = max((said.timestamp_ms for said in observations), default=0)
    standing: dict[tuple[str, str], Observation] = {}
    for said in sorted(observations, key=lambda one: (one.timestamp_ms, one.position)):
        if said.timestamp_ms > newest - WINDOW:
            standing[said.id, said.stream if isinstance(said, LabelledResult) else ""] = said
    return Counter(
        (standing[identity, ""].label, said.label)
        for (identity, stream), said in standing.items()
        if stream and (identity, "") in standing
    )


def observations_of(drawn: Sequence[tuple[str, str, str, int]]) -> list[Observation]:
    return [
        feedback(identity, label, timestamp_ms, offset=offset)
        if who == "feedback"
        else result(identity, label, timestamp_ms, offset=offset, stream=who)
        for offset, (who, identity, label, timestamp_ms) in enumerate(drawn)
    ]


def store(changes: dict[str, Statements | None], stored: dict[bytes, bytes]) -> None:
    for identity, said in changes.items():
        if said is None:
            stored.pop(identity.encode(), None)
        else:
            stored[identity.encode()] = encode_statements(said)


def test_feedback_may_come_before_or_after_its_result() -> None:
    pair: list[Observation] = [result("x", "a"), feedback("x", "b")]

    assert Counter({("b", "a"): 1}) == confusion_after(pair)
    assert Counter({("b", "a"): 1}) == confusion_after(reversed(pair))


def test_later_feedback_replaces() -> None:
    said: list[Observation] = [result("x", "a"), feedback("x", "b", 100), feedback("x", "a", 200, offset=1)]

    assert Counter({("a", "a"): 1}) == confusion_after(said)
    assert Counter({("a", "a"): 1}) == confusion_after(reversed(said))


def test_feedback_counts_for_every_stream_that_answered() -> None:
    said: list[Observation] = [result("x", "a"), result("x", "b", stream="two"), feedback("x", "a")]

    assert Counter({("a", "a"): 1, ("a", "b"): 1}) == confusion_after(said)


def test_nothing_is_kept_that_the_window_has_passed() -> None:
    quality = RollingQuality(WINDOW, max_ids=10)
    stored: dict[bytes, bytes] = {}
    for said in (result("x", "a"), feedback("x", "a"), feedback("y", "a", 150)):
        quality.add(said)
    store(quality.take_changed_ids(), stored)
    assert {b"x", b"y"} == set(stored)

    quality.add(result("z", "a", 100 + WINDOW))
    store(quality.take_changed_ids(), stored)

    assert {b"y", b"z"} == set(stored)
    assert {MODEL: Counter()} == quality.take_changed_models()


def test_what_grew_too_old_while_it_was_stored_is_dropped_when_it_is_read_again() -> None:
    stored = {
        identity.encode(): encode_statements({"one": result(identity, "a", timestamp_ms)})
        for identity, timestamp_ms in (("old", 1), ("new", 5_000))
    }

    store(RollingQuality(WINDOW, 10, stored.items()).take_changed_ids(), stored)

    assert {b"new"} == set(stored)


def test_above_the_limit_the_oldest_go_first() -> None:
    said = [item for n in range(5) for item in (result(f"{n}", "a", n), feedback(f"{n}", "a", n))]

    assert Counter({("a", "a"): 3}) == confusion_after(said, max_ids=3)


@given(st.lists(DRAWN, max_size=40), st.data())
def test_the_order_of_reading_does_not_matter(
    drawn: list[tuple[str, str, str, int]], data: st.DataObject
) -> None:
    said = observations_of(drawn)
    again = data.draw(st.permutations(said + said[: len(said) // 2]))

    assert recount(said) == confusion_after(again)


@given(st.lists(DRAWN, max_size=40), st.data())
def test_counts_after_crashes_are_those_of_a_recount(
    drawn: list[tuple[str, str, str, int]], data: st.DataObject
) -> None:
    """The process dies while it stores: some ids are stored, and all since the commit comes again."""
    said = observations_of(drawn)
    committed = data.draw(st.integers(0, len(said)))
    stored: dict[bytes, bytes] = {}
    store(restored(stored, said[:committed]).take_changed_ids(), stored)

    dying = restored(stored, said[committed : data.draw(st.integers(committed, len(said)))])
    changes = list(dying.take_changed_ids().items())
    store(dict(changes[: data.draw(st.integers(0, len(changes)))]), stored)
    recovered = restored(stored, said[committed:])
    store(recovered.take_changed_ids(), stored)

    expected = recount(said)
    assert expected == recovered.take_changed_models().get(MODEL, expected)
    assert expected == confusion_after(kept for value in stored.values() for kept in decode_statements(value))


@given(PAIRS)
def test_scores_are_those_of_scikit_learn(pairs: list[tuple[str, str]]) -> None:
    right, given_labels = zip(*pairs, strict=True)
    labels = sorted(set(right) | set(given_labels))
    expected = precision_recall_fscore_support(right, given_labels, labels=labels, zero_division=0)

    found = score_labels(Counter(pairs))

    assert labels == list(found)
    for name, precision, recall, f1, support in zip(labels, *expected, strict=True):
        assert pytest.approx((precision, recall, f1, support)) == (
            found[name].precision or 0,
            found[name].recall or 0,
            found[name].f1,
            found[name].support,
        )


@given(PAIRS)
def test_the_record_holds_the_whole_matrix(pairs: list[tuple[str, str]]) -> None:
    right, given_labels = zip(*pairs, strict=True)

    out = quality_record(MODEL, Counter(pairs), 60_000, "quality")
    fields: dict[str, Any] = msgpack.unpackb(out.value or b"")

    assert b"mood@r1" == out.key
    assert accuracy_score(right, given_labels) == pytest.approx(fields["accuracy"])
    assert Counter(pairs) == Counter(
        {(right, given): n for right, row in fields["confusion"].items() for given, n in row.items()}
    )
    assert len(pairs) == fields["pairs"] == sum(label["support"] for label in fields["labels"].values())


def test_a_model_without_pairs_has_no_scores() -> None:
    fields = msgpack.unpackb(quality_record(MODEL, Counter(), 60_000, "quality").value or b"")

    assert (0, None, None, {}) == tuple(fields[name] for name in ("pairs", "accuracy", "macro_f1", "labels"))


def test_a_label_never_given_has_no_precision_and_one_never_right_no_recall() -> None:
    scores = score_labels({("a", "b"): 2})

    assert (None, 0.0, 0.0, 2) == (
        scores["a"].precision,
        scores["a"].recall,
        scores["a"].f1,
        scores["a"].support,
    )
    assert (0.0, None) == (scores["b"].precision, scores["b"].recall)
