"""What the live page tells of single events: where, why and how long; what producers wrote only if told."""

from __future__ import annotations

import json
from dataclasses import replace

import msgpack
import pytest

from stream_infer.config import BUILTIN_STREAMS
from stream_infer.schemas import DeadLetter, Record, Result, Stages
from stream_infer.service.recent import KEPT, MAX_READ_BYTES, SHOWN_CHARS, RecentOutcomes

SECRET = "a secret of the user"  # noqa: S105 - a text
RECORD = Record("requests.classify", 3, 17, 1_000, None, msgpack.packb({"text": SECRET * 10}))
STAGES = Stages(bus=1.0, queue=0.1, batch=0.2, engine=0.4, total=2.0)
LATE = Result(RECORD, f"id of {SECRET}", "classify", {}, "sentiment", STAGES, late=True, finished=5.0)
LETTER = DeadLetter(
    RECORD, f"id of {SECRET}", "classify", "model_failed", f"ModelFailedError: not '{SECRET}'", "engine", 2
)


def noted(*outcomes: Result | DeadLetter, shows_text: bool = False) -> RecentOutcomes:
    recent = RecentOutcomes(BUILTIN_STREAMS, shows_text=shows_text)
    recent.note(outcomes, now=5.5, at_ms=9_000)
    return recent


def test_a_late_events_stages_add_up_to_its_total() -> None:
    (event,) = noted(LATE, LATE._replace(late=False)).as_dict()["late"]

    assert (9_000, "classify", "requests.classify/3/17", 0.5, 2.5) == tuple(
        event[name] for name in ("at_ms", "stream", "place", "budget", "total")
    )
    assert event["total"] == pytest.approx(sum(event["stages"].values()))
    assert (0.5, pytest.approx(0.3)) == (event["stages"]["publish"], event["stages"]["other"])


def test_a_dead_letter_says_why_and_where() -> None:
    (letter,) = noted(LETTER).as_dict()["dead_letters"]

    assert ("model_failed", "engine", 2, "ModelFailedError", "requests.classify/3/17") == tuple(
        letter[name] for name in ("reason", "stage", "attempts", "fault", "place")
    )


def test_nothing_that_producers_wrote_is_shown_unless_told() -> None:
    assert SECRET not in json.dumps(noted(LATE, LETTER).as_dict())

    shown = noted(LATE, LETTER, shows_text=True).as_dict()
    for entry in (*shown["late"], *shown["dead_letters"]):
        assert (f"id of {SECRET}", (SECRET * 10)[:SHOWN_CHARS]) == (entry["id"], entry["text"])
    assert LETTER.error == shown["dead_letters"][0]["fault"]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, None),
        (b"no map", None),
        (msgpack.packb({"text": 3}), None),
        (msgpack.packb({"question": "why?"}), "why?"),
        (b'{"text": "half \\ud800"}', "half \ud800"),
        (msgpack.packb({"text": "x" * MAX_READ_BYTES}), None),
    ],
)
def test_a_text_that_cannot_be_read_is_none(value: bytes | None, text: str | None) -> None:
    letter = replace(LETTER, record=RECORD._replace(value=value))

    shown = noted(letter, shows_text=True).as_dict()

    assert text == shown["dead_letters"][0]["text"]
    json.dumps(shown).encode()


def test_the_latest_are_kept_the_newest_first() -> None:
    letters = [replace(LETTER, record=RECORD._replace(offset=offset)) for offset in range(3 * KEPT)]
    recent = noted(*letters)
    recent.note([replace(LETTER, record=RECORD._replace(offset=999))], now=6.0, at_ms=9_500)

    places = [letter["place"] for letter in recent.as_dict()["dead_letters"]]

    assert KEPT == len(places)
    assert ["requests.classify/3/999", f"requests.classify/3/{3 * KEPT - 1}"] == places[:2]
