"""Where privacy is asked for, dead letters hold no text and personal data goes before all else."""

from __future__ import annotations

import builtins
import hashlib
from dataclasses import replace
from pathlib import Path
from time import process_time
from typing import Any

import msgpack
import pytest
import structlog

from stream_infer.bus.batches import OutRecord
from stream_infer.config import BUILTIN_STREAMS, PrivacySettings, Settings
from stream_infer.config_loading import load_settings
from stream_infer.engine.serving import answer
from stream_infer.engine.wire import encode_batch
from stream_infer.errors import ConfigError, ModelFailedError
from stream_infer.flow.outcomes import dead_letter
from stream_infer.flow.replay import Place, Selection
from stream_infer.personal_data import PersonalData, PersonalDataFilter
from stream_infer.schemas import (
    AnswerBody,
    ClassifyBody,
    DeadLetter,
    Partition,
    Record,
    Tokens,
    TranslateBody,
)
from stream_infer.service import dead_letters
from stream_infer.service.dead_letters import Replay
from stream_infer.service.encoding import OutcomeEncoder
from stream_infer.service.intake import Intake
from stream_infer.streams.dead_letters import DeadLetters
from tests.unit.test_encoding import INFO
from tests.unit.test_intake import FIRST, Inference, Owner

MARKER = "zebra-in-the-attic"
TRACE = ("traceparent", b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
VALUES = [
    f'{{"text": "{MARKER}"',
    f'{{"text": ["{MARKER}"]}}',
    f'{{"{MARKER}": 1}}',
    f'{{"text": "x", "source": "{MARKER}"}}',
    f'{{"text": "{MARKER}" }} {MARKER}',
    MARKER,
]
TEXTS = [
    ("Write to ana.silva+shop@example.com.br, please.", "Write to [EMAIL], please."),
    ("Call +55 11 91234-5678 or (555) 123-4567 today", "Call [PHONE] or [PHONE] today"),
    ("My card 4111-1111-1111-1111 was charged twice", "My card [CREDIT_CARD] was charged twice"),
    ("From 192.168.10.4 since May", "From [IP_ADDRESS] since May"),
    ("Order 12 of 3 parcels came at 10:30", "Order 12 of 3 parcels came at 10:30"),
]
KINDS = [PersonalData.EMAIL, PersonalData.PHONE, PersonalData.CREDIT_CARD, PersonalData.IP_ADDRESS]


def encoder(*, hides_text: bool) -> OutcomeEncoder:
    return OutcomeEncoder("classify", BUILTIN_STREAMS["classify"], INFO, hides_text=hides_text)


def bytes_of(record: OutRecord) -> bytes:
    return repr((record.key, record.value, record.headers)).encode()


def letter_of(value: bytes, error: Exception, **fields: Any) -> DeadLetter:
    record = Record(
        "requests.classify", 0, 7, 1_000, b"key", value, (TRACE, ("ce_id", b"a"), ("note", MARKER.encode()))
    )
    return dead_letter(record._replace(**fields), "classify", error, "engine", request_id="a")


@pytest.mark.parametrize("error", [ValueError(MARKER), ModelFailedError(f"mood: {MARKER}"), KeyError(MARKER)])
def test_a_redacted_letter_tells_length_hash_and_place_and_no_text(error: Exception) -> None:
    value = f'{{"text": "{MARKER}"}}'.encode()
    letter = letter_of(value, error)
    _, open_record = encoder(hides_text=False).encode(letter)
    _, record = encoder(hides_text=True).encode(letter)

    assert MARKER.encode() in bytes_of(open_record)
    assert MARKER.encode() not in bytes_of(record)
    headers = dict(record.headers)
    assert (b"key", None, TRACE[1]) == (record.key, record.value, headers["traceparent"])
    assert str(len(value)).encode() == headers["dead_letter_value_bytes"]
    assert hashlib.sha256(value).hexdigest().encode() == headers["dead_letter_value_sha256"]
    assert (b"requests.classify", b"7", b"a") == tuple(
        headers[f"dead_letter_{name}"] for name in ("topic", "offset", "id")
    )


def test_what_stands_for_text_in_other_places_goes_too() -> None:
    """A trace that is none, and a key so long that it is no key."""
    letter = letter_of(
        b"{}", ValueError(), key=MARKER.encode() * 100, headers=(("traceparent", MARKER.encode()),)
    )
    whole = encoder(hides_text=True).encode(letter)[1]
    for record in (whole, encoder(hides_text=True).shrink(letter, whole)[1]):
        assert MARKER.encode() not in bytes_of(record)


def replay_of_redacted(letter: DeadLetter) -> Replay:
    """Return a replay that has read the letter as it lies on its topic, at 0/3."""
    _, out = encoder(hides_text=True).encode(letter)
    topics = {"requests.classify"}
    replay = Replay("dead-letters", Selection(), {}, topics, topics)
    replay.take([Record("dead-letters", 0, 3, 0, out.key, out.value, tuple(out.headers))])
    return replay


def test_a_redacted_letter_is_put_back_as_its_record_is() -> None:
    """Its own null value would be written in the place of the text, so the record is read again."""
    traced = ("traceparent", b"00-0af7651916cd43dd8448eb211c80319c-00f067aa0ba902b7-01")
    letter = letter_of(b'{"text": "t"}', ValueError(), key=b"k" * 2_000)
    headers = (TRACE, ("ce_id", b"a"), ("dead_letter_reason", b"of before"), ("note", None))
    source = letter.record._replace(headers=headers)
    replay = replay_of_redacted(replace(letter, record=letter.record._replace(headers=(traced,))))

    assert {Partition("requests.classify", 0): [7]} == replay.sources()
    assert not replay.chosen
    replay.take_source(source)
    replay.refuse_redacted()

    put_back = OutRecord(
        "requests.classify", b"k" * 2_000, b'{"text": "t"}', [("ce_id", b"a"), ("note", None), traced], 0
    )
    assert {Place(0, 3): put_back} == replay.chosen
    assert not replay.refused


@pytest.mark.parametrize("change", [{"value": b"another"}, {"value": None}, {"timestamp_ms": 1}])
def test_another_record_in_its_place_is_not_put_back(change: dict[str, Any]) -> None:
    """A topic that was made anew has other records at the same offsets."""
    letter = letter_of(b'{"text": "t"}', ValueError())
    replay = replay_of_redacted(letter)

    replay.take_source(letter.record._replace(**change))

    assert not replay.chosen
    assert "requests.classify/0/7 is another record now" in replay.refused[Place(0, 3)]


def test_a_redacted_letter_whose_record_is_gone_is_refused_and_says_where_it_was() -> None:
    replay = replay_of_redacted(letter_of(b"{}", ValueError()))

    replay.refuse_redacted()

    said = "its value was redacted, and requests.classify/0/7 is not there any more"
    assert {Place(0, 3): said} == replay.refused


def test_records_read_again_count_as_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    letter = letter_of(b"x" * 1_000, ValueError())
    monkeypatch.setattr(dead_letters, "MAX_CHOSEN_BYTES", 1_200)
    replay = replay_of_redacted(letter)
    assert 0 == replay.left

    replay.take_source(letter.record)

    assert (1, {}, {}) == (replay.left, replay.chosen, replay.refused)


@pytest.mark.parametrize("value", VALUES)
@pytest.mark.parametrize("name", BUILTIN_STREAMS)
async def test_a_worker_tells_no_text_of_what_it_cannot_decode(value: str, name: str) -> None:
    partition = Partition(f"requests.{name}", 0)
    owner, inference = Owner(partition), Inference()
    settings = Settings(privacy=PrivacySettings(redact=True))
    intake = Intake(settings, {partition: owner}, inference.submit)  # type: ignore[dict-item] # a fake
    with structlog.testing.capture_logs() as logs:
        await intake.admit({partition: [Record(partition.topic, 0, 0, 1_000, None, value.encode())]})
        assert len(owner.finished) + len(inference.submitted) == 1
        for letter in owner.finished:
            record = encoder(hides_text=True).encode(letter)[1]
            assert MARKER.encode() not in bytes_of(record)
    assert MARKER not in repr(logs)


def test_what_a_model_raises_is_logged_without_its_message() -> None:
    class Poisoned:
        info = INFO

        def run(self, _batch: object, _options: object) -> list[Any]:
            raise RuntimeError(MARKER)

    import numpy as np  # noqa: PLC0415 - only here

    message = encode_batch("m", [Tokens(np.array([1], np.int32))], [""], 1)
    with structlog.testing.capture_logs() as logs:
        reply = answer(message, {"m": Poisoned()})
    assert MARKER in reply["error"]
    assert [("batch_failed", "RuntimeError")] == [(each["event"], each["error"]) for each in logs]


async def test_side_streams_tell_no_text_either() -> None:
    written: list[OutRecord] = []

    class Publisher:
        async def publish(self, records: list[OutRecord]) -> None:
            written.extend(records)

    letters = DeadLetters(Publisher(), "dead-letters", "documents", hides_text=True)  # type: ignore[arg-type] # a fake
    with structlog.testing.capture_logs() as logs:
        await letters.reject(Record("documents", 0, 0, 0, b"k", MARKER.encode()), ModelFailedError(MARKER))
    assert 1 == len(written) == len(logs)
    assert MARKER.encode() not in bytes_of(written[0])
    assert MARKER not in repr(logs)


@pytest.mark.parametrize(("text", "expected"), TEXTS)
def test_personal_data_gives_way_to_its_kind(text: str, expected: str) -> None:
    assert expected == PersonalDataFilter(KINDS).name(text)


@pytest.mark.parametrize(("text", "expected"), TEXTS)
def test_a_mask_keeps_every_place(text: str, expected: str) -> None:
    masked = PersonalDataFilter(KINDS).mask(text)
    assert len(text) == len(masked)
    assert ("*" in masked) == ("[" in expected)
    assert all(given in {character, "*"} for character, given in zip(text, masked, strict=True))


@pytest.mark.parametrize("before", [0, 700, 760, 767, 768, 1_010, 1_024, 5_000])
def test_personal_data_is_found_wherever_it_stands_in_a_long_text(before: int) -> None:
    words = ("word " * 1_200)[:before].rstrip() + " "
    assert f"{words}[EMAIL] {words}" == PersonalDataFilter(KINDS).name(f"{words}ana@example.org {words}")


@pytest.mark.parametrize("unit", ["!", "1", "a.", "+1 ", "1-"])
def test_no_text_takes_long(unit: str) -> None:
    """Some patterns take time that grows with the square of what they look at."""
    began = process_time()
    PersonalDataFilter(list(PersonalData)).name((unit * 65_536)[:65_536])
    assert process_time() - began < 10.0


def test_only_the_kinds_asked_for_go() -> None:
    text = "a@b.org called 555-123-4567"
    assert "[EMAIL] called 555-123-4567" == PersonalDataFilter([PersonalData.EMAIL]).name(text)


def test_every_text_of_a_body_is_looked_at() -> None:
    find = PersonalDataFilter([PersonalData.EMAIL])
    assert ClassifyBody("[EMAIL]") == find.apply(ClassifyBody("a@b.org"))
    assert TranslateBody("[EMAIL]", "en", "pt") == find.apply(TranslateBody("a@b.org", "en", "pt"))
    asked = AnswerBody("Is a@b.org here?", "Yes, a@b.org.", "c", 2)
    assert AnswerBody("Is [EMAIL] here?", "Yes, *******.", "c", 2) == find.apply(asked)


async def test_what_is_submitted_holds_no_personal_data() -> None:
    owner, inference = Owner(FIRST), Inference()
    settings = Settings(privacy=PrivacySettings(personal_data=(PersonalData.EMAIL,)))
    intake = Intake(settings, {FIRST: owner}, inference.submit)  # type: ignore[dict-item] # a fake
    value = msgpack.packb({"text": "Write to a&#64;b.org"})
    await intake.admit({FIRST: [Record(FIRST.topic, 0, 0, 1_000, None, value)]})
    assert [ClassifyBody("Write to [EMAIL]")] == [request.body for request in inference.submitted]


def test_faults_of_privacy_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "settings.toml"
    path.write_text('[privacy]\npersonal_data = ["names"]\n', encoding="utf-8")
    with pytest.raises(ConfigError, match=r"privacy\.personal_data\.0"):
        load_settings(path)
    path.write_text("[privacy]\nredact = true\n[web]\nshow_text = true\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"web\.show_text"):
        load_settings(path)
    real = builtins.__import__

    def without_datafog(name: str, *arguments: Any, **options: Any) -> Any:
        if name.startswith("datafog"):
            raise ImportError(name)
        return real(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", without_datafog)
    with pytest.raises(ConfigError, match=r"privacy\.personal_data: needs the extra `privacy`"):
        PersonalDataFilter([PersonalData.EMAIL])


def test_personal_data_hides_text_of_dead_letters_too() -> None:
    """The original value still has it."""
    assert PrivacySettings(personal_data=(PersonalData.EMAIL,)).hides_text
    assert not PrivacySettings().hides_text
