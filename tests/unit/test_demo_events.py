from collections import Counter

import msgpack
import pytest

from stream_infer.bus.codec import decode_request
from stream_infer.config import BUILTIN_STREAMS, ServiceSettings
from stream_infer.demo.events import KEY_COUNT, DemoEvent, load_documents, load_events
from stream_infer.demo.traffic import preview
from stream_infer.errors import OutcomeError, RecordError
from stream_infer.retrieval.passages import check_document, split_document
from stream_infer.schemas import Record, Task
from stream_infer.text import prepare_text

MANY = 2_000
WORDS = (5, 60)
PASSAGES = (2, 5)


@pytest.fixture(scope="module")
def events() -> list[DemoEvent]:
    return load_events(MANY, seed=1)


def good(events: list[DemoEvent], task: Task) -> list[DemoEvent]:
    return [event for event in events if event.task is task and event.bad is None]


def test_the_same_seed_gives_the_same_events() -> None:
    assert load_events(200, seed=7) == load_events(200, seed=7)
    assert load_events(200, seed=7) != load_events(200, seed=8)


@pytest.mark.parametrize("count", [1, 2, 17])
def test_as_many_events_as_asked_for(count: int) -> None:
    assert count == len(load_events(count))


def test_no_events_are_refused() -> None:
    with pytest.raises(ValueError, match="count is 0"):
        load_events(0)


def test_a_shorter_run_is_the_start_of_a_longer_one() -> None:
    assert load_events(50, seed=3) == load_events(400, seed=3)[:50]


def test_ids_are_unique_and_keys_come_back(events: list[DemoEvent]) -> None:
    assert MANY == len({event.id for event in events})
    assert KEY_COUNT == len({event.key for event in events})


def test_all_tasks_are_mixed(events: list[DemoEvent]) -> None:
    counts = Counter(event.task for event in events)

    assert all(counts[task] > MANY / 10 for task in Task)


def test_few_events_are_bad_and_each_kind_is_sent(events: list[DemoEvent]) -> None:
    bad = [event for event in events if event.bad]

    assert 0.01 * MANY < len(bad) < 0.06 * MANY
    assert {
        "malformed",
        "invalid_field",
        "empty_text",
        "unsupported_language",
        "unknown_collection",
    } == {event.bad for event in bad}


def test_bad_events_name_reasons_that_exist() -> None:
    reasons = {error.reason for error in _descendants(OutcomeError) if hasattr(error, "reason")}

    assert {event.bad for event in load_events(MANY) if event.bad} <= reasons


def test_about_a_tenth_repeats_an_earlier_text() -> None:
    """Few enough events that no text has come round yet."""
    values = [event.value for event in load_events(100, seed=5) if event.bad is None]

    assert 3 <= len(values) - len(set(values)) <= 20


def test_good_events_hold_prepared_texts(events: list[DemoEvent]) -> None:
    for event in (event for event in events if event.bad is None):
        assert event.value is not None
        body = msgpack.unpackb(event.value)
        text = body["question"] if event.task is Task.ANSWER else body["text"]
        assert text == prepare_text(text) != ""


def test_reviews_are_of_natural_length_and_labelled(events: list[DemoEvent]) -> None:
    reviews = good(events, Task.CLASSIFY)
    texts = {msgpack.unpackb(event.value or b"")["text"] for event in reviews}

    assert 120 == len(texts)
    assert all(WORDS[0] <= len(text.split()) <= WORDS[1] for text in texts)
    assert {"positive", "negative", "neutral"} == {event.expected for event in reviews}


def test_translations_go_from_english_to_portuguese(events: list[DemoEvent]) -> None:
    bodies = [msgpack.unpackb(event.value or b"") for event in good(events, Task.TRANSLATE)]

    assert 80 <= len({body["text"] for body in bodies})
    assert all(("en", "pt") == (body["source"], body["target"]) for body in bodies)
    assert any("{name}" in body["text"] for body in bodies)
    assert any("https://" in body["text"] for body in bodies)


def test_expected_answers_stand_in_the_collection_asked(events: list[DemoEvent]) -> None:
    texts: dict[str, str] = {}
    for document in load_documents():
        texts[document.collection] = texts.get(document.collection, "") + document.text + "\n"
    questions = good(events, Task.ANSWER)

    assert any(event.expected is None for event in questions)
    for event in questions:
        collection = msgpack.unpackb(event.value or b"")["collection"]
        assert (event.expected or "") in texts[collection]


def test_documents_split_into_a_few_passages() -> None:
    documents = load_documents()

    assert 10 == len({(document.collection, document.document) for document in documents})
    for document in documents:
        check_document(document)
        assert PASSAGES[0] <= len(split_document(document)) <= PASSAGES[1]


def test_bad_events_are_bad_in_the_way_they_say(events: list[DemoEvent]) -> None:
    """Languages and collections are known to models and indexes only; all else the codec finds."""
    found_later = {"unsupported_language", "unknown_collection"}
    for event in events:
        if event.bad:
            assert (None if event.bad in found_later else event.bad) == _reason(event)


def test_good_events_are_requests(events: list[DemoEvent]) -> None:
    assert {None} == {_reason(event) for event in events if event.bad is None}


def _reason(event: DemoEvent) -> str | None:
    record = Record("requests", 0, 0, 0, event.key.encode(), event.value)
    try:
        decode_request(record, event.task, BUILTIN_STREAMS[event.task], ServiceSettings(), now=0.0, wall_ms=0)
    except RecordError as error:
        return error.reason
    return None


def _descendants(parent: type[OutcomeError]) -> set[type[OutcomeError]]:
    children = set(parent.__subclasses__())
    return children.union(*(_descendants(child) for child in children))


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (msgpack.packb({"text": "Two lines,\n one  thought."}), "Two lines, one thought."),
        (b'{"question": "When?"}', "When?"),
        (msgpack.packb({"text": 7}), "7"),
        (None, "(the value is empty)"),
        (b"\xc1", "(the value is neither a msgpack map with string keys nor JSON)"),
    ],
)
def test_a_preview_shows_words_and_not_the_wire(value: bytes | None, shown: str) -> None:
    assert shown == preview(value)
