"""The judge, itself on trial: from a clean set of records one is dropped, repeated, moved or changed."""

import random
from collections.abc import Callable
from dataclasses import dataclass, replace

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadgen.audit import LISTED, UNNAMED, Judge, judge
from loadgen.verdict import Kind, Offender, Ordering, Span, Verdict

INPUT, RESULTS, LETTERS = "in", "out", "dead"

Headers = tuple[tuple[str, bytes | None], ...]


@dataclass(frozen=True)
class Fake:
    """A record as a consumer gives it."""

    topic: str
    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    headers: Headers


def requests(count: int = 40, partitions: int = 2, keys: int = 5) -> list[Fake]:
    """Return requests, every second with an id of its own."""
    return [
        Fake(
            INPUT,
            number % keys % partitions,
            number // partitions,
            b"key-%d" % (number % keys),
            b"body-%d" % number,
            (("ce_id", b"id-%d" % number),) if number % 2 else (),
        )
        for number in range(count)
    ]


def identity(request: Fake) -> bytes:
    given = dict(request.headers).get("ce_id")
    return given or f"{request.topic}/{request.partition}/{request.offset}".encode()


def result(request: Fake, offset: int) -> Fake:
    """Return a result as README describes it, on the partition that the source has."""
    headers = (
        ("ce_id", identity(request)),
        ("source_topic", request.topic.encode()),
        ("source_partition", b"%d" % request.partition),
        ("source_offset", b"%d" % request.offset),
    )
    value = msgpack.packb({"id": identity(request).decode(), "label": "positive"})
    return Fake(RESULTS, request.partition, offset, request.key, value, headers)


def dead_letter(request: Fake, offset: int) -> Fake:
    """Return a dead letter: the whole original, and why in headers."""
    headers = (
        *request.headers,
        ("dead_letter_id", identity(request)),
        ("dead_letter_topic", request.topic.encode()),
        ("dead_letter_partition", b"%d" % request.partition),
        ("dead_letter_offset", b"%d" % request.offset),
    )
    return Fake(LETTERS, request.partition, offset, request.key, request.value, headers)


def clean() -> tuple[list[Fake], list[Fake]]:
    """Return requests, and one outcome for each: of every seventh a dead letter."""
    given = requests()
    given = [replace(each, offset=place) for place, each in _numbered(given)]
    outcomes = [
        dead_letter(each, number) if number % 7 == 0 else result(each, number)
        for number, each in enumerate(given)
    ]
    return given, outcomes


def _numbered(records: list[Fake]) -> list[tuple[int, Fake]]:
    places: dict[int, int] = {}
    numbered = []
    for record in records:
        places[record.partition] = places.get(record.partition, -1) + 1
        numbered.append((places[record.partition], record))
    return numbered


def with_header(record: Fake, name: str, value: bytes | None) -> Fake:
    headers = {**dict(record.headers), name: value}
    return replace(record, headers=tuple(headers.items()))


def offenders(verdict: Verdict, kind: Kind) -> list[tuple[int, int]]:
    return [(each.partition, each.offset) for each in verdict.offenders if each.kind is kind]


def test_a_clean_set_is_clean() -> None:
    given, outcomes = clean()
    verdict = judge(given, outcomes)

    assert verdict.is_clean
    assert (0, "clean") == (verdict.exit_code, verdict.word)
    assert (40, 34, 6) == (verdict.records, verdict.results, verdict.dead_letters)


@pytest.mark.parametrize("place", [0, 7, 11, 39])
def test_a_dropped_outcome_is_lost(place: int) -> None:
    given, outcomes = clean()
    missing = given[place]
    verdict = judge(given, [*outcomes[:place], *outcomes[place + 1 :]])

    assert {Kind.LOST: 1} == verdict.counts
    assert (Offender(Kind.LOST, INPUT, missing.partition, missing.offset),) == verdict.offenders
    assert 1 == verdict.exit_code


def test_a_repeated_outcome_is_duplicated() -> None:
    given, outcomes = clean()
    again = replace(outcomes[38], offset=40)
    verdict = judge(given, [*outcomes, again])

    assert {Kind.DUPLICATED: 1} == verdict.counts
    seen = f"{again.topic}/{again.partition}/40"
    assert Offender(Kind.DUPLICATED, INPUT, again.partition, given[38].offset, seen) == verdict.offenders[0]


def test_a_result_and_a_dead_letter_of_one_record_are_one_too_many() -> None:
    given, outcomes = clean()

    assert {Kind.DUPLICATED: 1} == judge(given, [*outcomes, dead_letter(given[39], 40)]).counts


def test_outcomes_of_a_key_that_change_places_are_out_of_order() -> None:
    given, outcomes = clean()
    outcomes[1], outcomes[6] = replace(outcomes[6], offset=1), replace(outcomes[1], offset=6)
    verdict = judge(given, outcomes)

    assert {Kind.OUT_OF_ORDER: 1} == verdict.counts
    assert [(given[1].partition, given[1].offset)] == offenders(verdict, Kind.OUT_OF_ORDER)
    assert judge(given, outcomes, Ordering.NONE).is_clean


def test_keys_have_no_order_among_each_other_unless_whole_partitions_do() -> None:
    given, outcomes = clean()
    outcomes[1], outcomes[3] = outcomes[3], outcomes[1]
    assert given[1].partition == given[3].partition

    assert judge(given, outcomes).is_clean
    assert {Kind.OUT_OF_ORDER: 1} == judge(given, outcomes, Ordering.PARTITION).counts


def test_records_without_key_have_no_order() -> None:
    given, outcomes = clean()
    given = [replace(each, key=None) for each in given]
    outcomes = [replace(each, key=None) for each in outcomes]

    assert judge(given, outcomes[::-1]).is_clean


def test_a_key_on_two_partitions_has_no_order_to_see() -> None:
    given, outcomes = clean()
    outcomes[20] = replace(outcomes[20], partition=1 - outcomes[20].partition)

    assert {Kind.SCATTERED: 1} == judge(given, outcomes).counts


@pytest.mark.parametrize(
    ("change", "kinds"),
    [
        (lambda each: with_header(each, "ce_id", b"another"), {Kind.WRONG_ID}),
        (lambda each: replace(each, value=msgpack.packb({"id": "another"})), {Kind.WRONG_ID}),
        (lambda each: replace(each, value=b"\xc1"), {Kind.WRONG_ID}),
        (lambda each: replace(each, value=None), {Kind.WRONG_ID}),
        (lambda each: replace(each, key=b"another"), {Kind.WRONG_KEY}),
        (lambda each: replace(each, key=None), {Kind.WRONG_KEY}),
        (lambda each: with_header(each, "source_offset", b"400"), {Kind.LOST, Kind.UNEXPECTED}),
        (lambda each: with_header(each, "source_partition", b"9"), {Kind.LOST, Kind.UNEXPECTED}),
        (lambda each: with_header(each, "source_offset", b"none"), {Kind.LOST}),
        (lambda each: with_header(each, "source_offset", b"9" * 5_000), {Kind.LOST}),
        (lambda each: with_header(each, "source_topic", b"other"), {Kind.LOST}),
    ],
)
def test_an_altered_result_is_told_by_what_it_no_longer_says(
    change: Callable[[Fake], Fake], kinds: set[Kind]
) -> None:
    given, outcomes = clean()
    outcomes[38] = change(outcomes[38])

    assert kinds == set(judge(given, outcomes).counts)


def test_a_dead_letter_must_carry_the_original() -> None:
    given, outcomes = clean()
    outcomes[35] = replace(outcomes[35], value=b"another")

    assert {Kind.ALTERED: 1} == judge(given, outcomes).counts


def test_a_dead_letter_too_large_for_the_original_says_so() -> None:
    given, outcomes = clean()
    bare = with_header(outcomes[35], "dead_letter_omitted", b"value,headers")
    outcomes[35] = replace(bare, key=None, value=None)

    assert judge(given, outcomes).is_clean


@pytest.mark.parametrize("identity", [b"\xff\xfe", b"i" * 257, b"", None])
def test_what_is_no_id_is_replaced_by_the_place(identity: bytes | None) -> None:
    request = Fake(INPUT, 0, 0, b"key", b"body", (("ce_id", identity),))
    outcome = dead_letter(replace(request, headers=()), 0)

    assert judge([request], [outcome]).is_clean


def test_results_in_json_are_read() -> None:
    (request,) = requests(1)
    outcome = replace(result(request, 0), value=b'{"id": "in/0/0", "label": "positive"}')

    assert judge([request], [outcome]).is_clean
    assert {Kind.WRONG_ID} == set(judge([request], [replace(outcome, value=b'{"id": "in/0/1"}')]).counts)
    assert {Kind.WRONG_ID} == set(judge([request], [replace(outcome, value=b'{"id":' * 90_000)]).counts)


def test_what_others_wrote_on_the_outputs_is_counted_and_named() -> None:
    given, outcomes = clean()
    others = [
        Fake(RESULTS, 0, 100, None, None, ()),
        Fake(RESULTS, 0, 101, b"key-1", b"\xff", (("source_topic", b"\xff"),)),
        dead_letter(replace(given[0], topic="requests.other"), 102),
    ]
    verdict = judge(given, [*outcomes, *others])

    assert verdict.is_clean
    assert {UNNAMED: 2, "outcomes of requests.other": 1} == verdict.foreign


def test_a_truncated_input_proves_nothing() -> None:
    given, outcomes = clean()
    spans = {(INPUT, 0): Span(0, 3, 24), (INPUT, 1): Span(0, 0, 16)}
    trial = Judge(spans)
    for each in given:
        if each.offset >= spans[each.topic, each.partition].begin:
            trial.expect(each)
    for each in outcomes:
        trial.take(each)
    verdict = trial.verdict()

    assert not verdict.counts
    assert 2 == verdict.exit_code
    assert "in/0 is truncated: records before offset 3 are gone, and outcomes of 3 of them were seen" in (
        verdict.doubts
    )


def test_an_audit_that_starts_later_is_not_about_what_was_before() -> None:
    given, outcomes = clean()
    trial = Judge({(INPUT, 0): Span(3, 3, 24), (INPUT, 1): Span(0, 0, 16)})
    for each in given:
        if each.partition == 1 or each.offset >= 3:
            trial.expect(each)
    for each in outcomes:
        trial.take(each)
    verdict = trial.verdict()

    assert verdict.is_clean
    assert (37, 3) == (verdict.records, verdict.earlier)


def test_without_whole_outputs_nothing_is_called_lost() -> None:
    given, outcomes = clean()
    trial = Judge({(INPUT, 0): Span(0, 0, 24), (INPUT, 1): Span(0, 0, 16)})
    for each in given:
        trial.expect(each)
    for each in outcomes[5:]:
        trial.take(each)
    verdict = trial.verdict(["out/0 is truncated"], is_whole=False)

    assert not verdict.counts
    assert ("cannot tell", 2) == (verdict.word, len(verdict.doubts))


def test_an_empty_input_proves_nothing() -> None:
    assert 2 == judge([], []).exit_code


def test_all_offenders_are_counted_and_the_first_are_named() -> None:
    given = [replace(each, partition=0, offset=number) for number, each in enumerate(requests(3 * LISTED))]
    verdict = judge(given, [])

    assert {Kind.LOST: 3 * LISTED} == verdict.counts
    assert [(0, number) for number in range(LISTED)] == offenders(verdict, Kind.LOST)


@given(st.integers(0, 39), st.integers(0, 39), st.sampled_from(["drop", "repeat", "swap"]))
def test_any_single_breach_is_seen(first: int, second: int, breach: str) -> None:
    given, outcomes = clean()
    if breach == "drop":
        del outcomes[first]
    elif breach == "repeat":
        outcomes.append(outcomes[first])
    else:
        outcomes[first], outcomes[second] = outcomes[second], outcomes[first]
    one, other = outcomes[min(first, len(outcomes) - 1)], outcomes[min(second, len(outcomes) - 1)]
    is_harmless = breach == "swap" and (first == second or (one.topic, one.key) != (other.topic, other.key))

    if not is_harmless:
        assert 1 == judge(given, outcomes).exit_code


@given(st.randoms(use_true_random=False))
def test_any_interleaving_that_keeps_each_key_in_order_is_clean(draw: random.Random) -> None:
    given, outcomes = clean()
    queues = {key: [each for each in outcomes if each.key == key] for key in {each.key for each in outcomes}}
    mixed = []
    while queues:
        key = draw.choice(sorted(queues, key=str))
        mixed.append(queues[key].pop(0))
        queues = {each: queue for each, queue in queues.items() if queue}

    assert judge(given, mixed).is_clean
