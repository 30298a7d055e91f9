"""Which dead letters go back, that each goes once, and that what is shown of them does no harm."""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from io import StringIO
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from rich.console import Console
from typer.testing import CliRunner

from stream_infer.bus.batches import OutRecord
from stream_infer.bus.codec import encode_bare_dead_letter, encode_dead_letter
from stream_infer.bus.offsets import Committed
from stream_infer.bus.replays import decode_entry, encode_entry, encode_original, ledger_of
from stream_infer.bus.values import encode_value
from stream_infer.cli import app
from stream_infer.config_loading import load_settings
from stream_infer.errors import (
    BusError,
    ConfigError,
    MalformedRecordError,
    PartitionLostError,
    RecordTooLargeError,
)
from stream_infer.flow.replay import (
    UNREADABLE,
    Entry,
    Mark,
    Place,
    Selection,
    decode_mark,
    encode_mark,
    parse_duration,
    parse_place,
    plan_replay,
)
from stream_infer.schemas import DeadLetter, Headers, Record
from stream_infer.service import dead_letters, replaying
from stream_infer.service.dead_letters import Listing, Replay, to_entry, topic_of
from stream_infer.service.dead_letters_view import (
    listing_object,
    listing_table,
    printable,
    replay_lines,
    report_lines,
    whole,
)
from stream_infer.service.replaying import Report, _Replayer

TOPIC = "dead-letters"
INPUT = "requests.classify"
TEXT = "words of a customer"
ORIGINAL_HEADERS: Headers = (("ce_id", b"order-7"), ("odd", None), ("odd", b"\xff"))


def letter_record(
    offset: int = 3,
    *,
    partition: int = 0,
    timestamp_ms: int = 5_000,
    value: bytes | None = encode_value({"text": TEXT}, "msgpack"),
    key: bytes | None = b"key",
    **changes: Any,
) -> Record:
    """Return a dead letter as it lies on its topic."""
    original = Record(changes.pop("topic", INPUT), 2, 40 + offset, 1_000, key, value, ORIGINAL_HEADERS)
    fields = {"id": "order-7", "stream": "classify", "reason": "malformed", "error": "why", "stage": "decode"}
    out = encode_dead_letter(DeadLetter(original, **(fields | changes)), TOPIC)
    return Record(TOPIC, partition, offset, timestamp_ms, out.key, out.value, out.headers)


def replay_of(*records: Record, **changes: Any) -> Replay:
    given: dict[str, Any] = {"selection": Selection(), "marks": {}, "inputs": {INPUT}, "existing": {INPUT}}
    replay = Replay(TOPIC, **(given | changes))
    replay.take(list(records))
    replay.refuse_absent()
    return replay


class ReplaysOfOnePartition(RuleBasedStateMachine):
    """Dead letters come and expire; replays select, put back and crash, also with an old view."""

    @initialize()
    def begin(self) -> None:
        """Start with an empty topic and nothing put back."""
        self.present: list[int] = []
        self.next_offset = 0
        self.mark = Mark()
        self.put_back: Counter[int] = Counter()

    @rule(gaps=st.lists(st.integers(0, 2), min_size=1, max_size=6))
    def arrive(self, gaps: list[int]) -> None:
        """Gaps are the transactions' markers, and what was aborted."""
        for gap in gaps:
            self.present.append(self.next_offset + gap)
            self.next_offset += gap + 1

    @rule(number=st.integers(0, 4))
    def expire(self, number: int) -> None:
        """Retention takes the oldest."""
        del self.present[:number]

    @rule(data=st.data(), most=st.integers(1, 4))
    def replay_to_the_end(self, data: st.DataObject, most: int) -> None:
        """All that is chosen has gone back once this returns."""
        view = list(self.present)
        chosen = self._choose(data, view)
        for step in plan_replay(view, chosen, self.mark, most):
            self._commit(step.offsets, step.mark)
        assert chosen <= self.put_back.keys()

    @rule(data=st.data(), most=st.integers(1, 4), steps=st.integers(0, 2))
    def replay_and_crash(self, data: st.DataObject, most: int, steps: int) -> None:
        """What was not committed left nothing behind."""
        chosen = self._choose(data, self.present)
        for _, step in zip(range(steps), plan_replay(self.present, chosen, self.mark, most), strict=False):
            self._commit(step.offsets, step.mark)

    @rule(data=st.data(), gaps=st.lists(st.integers(0, 2), max_size=3))
    def replay_from_an_old_view(self, data: st.DataObject, gaps: list[int]) -> None:
        """Between its look at the topic and its fence, others replayed and time went on."""
        view = list(self.present)
        chosen = self._choose(data, view)
        self.arrive(gaps)
        self.replay_to_the_end(data, 3)
        self.expire(1)
        for step in plan_replay(view, chosen, self.mark, 2):
            self._commit(step.offsets, step.mark)
        assert chosen <= self.put_back.keys()

    @invariant()
    def nothing_went_back_twice(self) -> None:
        """The promise itself."""
        assert not [offset for offset, times in self.put_back.items() if times > 1]

    @invariant()
    def the_mark_tells_of_all_that_is_left_what_became_of_it(self) -> None:
        """Neither more nor less than what went back is covered."""
        assert [offset in self.put_back for offset in self.present] == [
            self.mark.covers(offset) for offset in self.present
        ]

    def _choose(self, data: st.DataObject, view: Sequence[int]) -> set[int]:
        return data.draw(st.sets(st.sampled_from(view))) if view else set()

    def _commit(self, offsets: Iterable[int], mark: Mark) -> None:
        self.put_back.update(offsets)
        self.mark = decode_mark(encode_mark(mark))


TestReplaysOfOnePartition = pytest.mark.slow(ReplaysOfOnePartition.TestCase)
TestReplaysOfOnePartition.settings = settings(max_examples=60, stateful_step_count=25)


def test_steps_are_bounded_and_in_order() -> None:
    steps = list(plan_replay(range(10), set(range(1, 8)), Mark(), most=3))

    assert [(1, 2, 3), (4, 5, 6), (7,)] == [step.offsets for step in steps]
    assert Mark(0, (range(1, 8),)) == steps[-1].mark


def test_scattered_dead_letters_cost_no_memory_once_all_went() -> None:
    """Every transaction of the service leaves a marker between dead letters."""
    (step,) = plan_replay(range(1_000, 3_000, 2), set(range(1_000, 3_000)), Mark(), most=5_000)

    assert Mark(2_999) == step.mark


@given(position=st.integers(0, 1 << 50), lengths=st.lists(st.integers(1, 50), max_size=20))
def test_decode_inverts_encode(position: int, lengths: list[int]) -> None:
    runs, cursor = [], position
    for length in lengths:
        runs.append(range(cursor + length, cursor + 2 * length))
        cursor = runs[-1].stop
    mark = Mark(position, tuple(runs))

    out = encode_entry(TOPIC, 7, encode_mark(mark))
    partition, fields = decode_entry(Record(out.topic, 0, 0, 0, out.key, out.value))

    assert (ledger_of(TOPIC).topic, 0) == (out.topic, out.partition)
    assert (7, mark) == (partition, decode_mark(fields))


@pytest.mark.parametrize(
    "fields",
    [{}, {"position": 3}, {"position": "3", "replayed": ""}, {"position": -1, "replayed": ""}]
    + [{"position": 1 << 63, "replayed": ""}]
    + [{"position": 3, "replayed": text} for text in ("host-7", "si1:BB")],
)
def test_a_ledger_that_cannot_be_read_is_not_guessed_at(fields: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"read|which"):
        decode_mark(fields)


@pytest.mark.parametrize(("key", "value"), [(b"x", b"{}"), (None, b"{}"), (b"0", None), (b"0", b"\xc1")])
def test_a_record_from_elsewhere_is_no_entry(key: bytes | None, value: bytes | None) -> None:
    with pytest.raises(MalformedRecordError):
        decode_entry(Record("t", 0, 0, 0, key, value))


def test_the_original_goes_back_as_it_was_to_where_it_was() -> None:
    letter = to_entry(letter_record(3)).letter
    assert letter is not None

    assert OutRecord(
        INPUT, b"key", encode_value({"text": TEXT}, "msgpack"), list(ORIGINAL_HEADERS), 2
    ) == encode_original(letter)


@pytest.mark.parametrize(
    ("selection", "expected"),
    [
        (Selection(), [0, 1, 2, 3]),
        (Selection(reason="malformed"), [0, 2]),
        (Selection(reason=UNREADABLE), [3]),
        (Selection(stream="translate"), [2]),
        (Selection(since_ms=101), [1, 2, 3]),
        (Selection(places=frozenset({Place(0, 1), Place(0, 2), Place(1, 0)})), [1, 2]),
        (Selection(reason="malformed", places=frozenset({Place(0, 1), Place(0, 2)})), [2]),
    ],
)
def test_every_condition_must_be_met(selection: Selection, expected: list[int]) -> None:
    records = [
        letter_record(0, timestamp_ms=100),
        letter_record(1, timestamp_ms=101, reason="late"),
        letter_record(2, timestamp_ms=102, stream="translate"),
        Record(TOPIC, 0, 3, 103, None, b"not ours"),
    ]

    taken = [record.offset for record in records if selection.takes(to_entry(record))]

    assert expected == taken


@pytest.mark.parametrize(("text", "place"), [("0/17", Place(0, 17)), ("12/0", Place(12, 0))])
def test_places_are_read(text: str, place: Place) -> None:
    assert (place, text) == (parse_place(text), str(place))


@pytest.mark.parametrize("text", ["", "3", "0/", "-1/2", "0/1/2", "0 / 1", "t/0", "0/1\n"])
def test_what_is_no_place_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not a place"):
        parse_place(text)


@pytest.mark.parametrize(("text", "seconds"), [("90s", 90), ("15m", 900), ("2h", 7_200), ("7d", 604_800)])
def test_durations_are_read(text: str, seconds: int) -> None:
    assert seconds == parse_duration(text)


@pytest.mark.parametrize("text", ["", "5", "m", "1w", "-1h", "1h30m"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not a duration"):
        parse_duration(text)


def test_what_cannot_go_is_refused_by_name_and_the_others_go() -> None:
    bare = encode_bare_dead_letter(
        DeadLetter(Record(INPUT, 0, 1, 0, None, None), "id", "classify", "too_large", "e", "publish"), TOPIC
    )
    records = [
        letter_record(0),
        Record(TOPIC, 0, 1, 0, None, None, bare.headers),
        Record(TOPIC, 0, 2, 0, None, b"?"),
        letter_record(3, topic="gone"),
        letter_record(4, topic="__consumer_offsets"),
        letter_record(5),
    ]

    replay = replay_of(*records, inputs={INPUT, "gone"})

    assert [Place(0, 0), Place(0, 5)] == list(replay.chosen)
    assert "too large to be kept" in replay.refused[Place(0, 1)]
    assert "not a dead letter" in replay.refused[Place(0, 2)]
    assert "topic 'gone' does not exist" == replay.refused[Place(0, 3)]
    assert "no stream of these settings" in replay.refused[Place(0, 4)]


def test_a_place_with_nothing_at_it_is_refused() -> None:
    places = frozenset({Place(0, 0), Place(0, 9), Place(7, 0)})

    replay = replay_of(letter_record(0), selection=Selection(places=places))

    assert [Place(0, 0)] == list(replay.chosen)
    assert [Place(0, 9), Place(7, 0)] == list(replay.refused)


def test_what_went_before_is_counted_and_not_chosen() -> None:
    replay = replay_of(
        letter_record(0), letter_record(1), letter_record(2), marks={0: Mark(1, (range(2, 3),))}
    )

    assert ([Place(0, 1)], 2) == (list(replay.chosen), replay.replayed)


def test_what_memory_cannot_hold_is_left_and_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dead_letters, "MAX_CHOSEN_BYTES", 1_000)

    replay = replay_of(*(letter_record(offset, value=b"x" * 300) for offset in range(5)))

    assert [Place(0, 0)] == list(replay.chosen)[:1]
    assert 5 == len(replay.chosen) + replay.left
    assert f"left to the next replay: {replay.left}" in replay_lines(replay)


class FakeProducer:
    """A transaction log in memory; `refuse` raises what the broker would."""

    def __init__(self, refuse: Callable[[Sequence[OutRecord]], None] = lambda _records: None) -> None:
        self.written: list[OutRecord] = []
        self.attempts: list[tuple[int, str]] = []
        self._refuse = refuse

    async def open(self) -> Committed:
        """Return no position: nothing was ever committed."""
        return Committed()

    async def publish(self, records: Sequence[OutRecord], offset: int, metadata: str) -> None:
        """Write all records or raise."""
        self.attempts.append((offset, metadata))
        self._refuse(records)
        self.written += records

    async def close(self) -> None:
        """Nothing is open."""

    def originals(self) -> list[bytes | None]:
        """Return the values that were put back."""
        return [record.value for record in self.written if record.topic == INPUT]

    def marks(self) -> dict[int, Mark]:
        """Return what the ledger says."""
        entries = [record for record in self.written if record.topic != INPUT]
        found = [decode_entry(Record(e.topic, 0, 0, 0, e.key, e.value)) for e in entries]
        return {partition: decode_mark(fields) for partition, fields in found}


@pytest.fixture(autouse=True)
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replaying, "RETRY_PAUSE", 0)


async def test_each_transaction_carries_what_the_ledger_says_next(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replaying, "MAX_STEP", 2)
    producer = FakeProducer()
    replay = replay_of(
        *(letter_record(offset, value=b"%d" % offset) for offset in range(3)),
        letter_record(8, partition=1, value=b"8"),
    )

    report = await _Replayer(producer, replay, 1).run({})

    assert [b"0", b"1", b"2", b"8"] == producer.originals()
    assert {0: Mark(3), 1: Mark(9)} == producer.marks()
    assert [Place(0, 0), Place(0, 1), Place(0, 2), Place(1, 8)] == report.put_back
    assert [1, 2, 3] == [position for position, _ in producer.attempts]


async def test_what_the_fenced_ledger_has_is_not_put_back() -> None:
    """Another replay may have put it back since the selection was made."""
    producer = FakeProducer()
    replay = replay_of(letter_record(0), letter_record(1, value=b"1"))

    report = await _Replayer(producer, replay, 1).run({0: Mark(1)})

    assert ([b"1"], [Place(0, 1)]) == (producer.originals(), report.put_back)


async def test_a_record_too_large_is_refused_and_stays_replayable() -> None:
    def refuse(records: Sequence[OutRecord]) -> None:
        if large := [index for index, record in enumerate(records) if record.value == b"large"]:
            raise RecordTooLargeError("too large", large[0])

    producer = FakeProducer(refuse)
    values = [b"a", b"large", b"b", b"large", b"c"]
    replay = replay_of(*(letter_record(offset, value=value) for offset, value in enumerate(values)))

    report = await _Replayer(producer, replay, 1).run({})

    assert [b"a", b"b", b"c"] == producer.originals()
    assert {Place(0, 1), Place(0, 3)} == set(report.refused)
    assert [True, False, True, False, True] == [producer.marks()[0].covers(offset) for offset in range(5)]


async def test_a_refusal_repeats_nothing_that_went_before_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replaying, "MAX_STEP", 1)

    def refuse(records: Sequence[OutRecord]) -> None:
        if records[0].value == b"large":
            raise RecordTooLargeError("too large", 0)

    producer = FakeProducer(refuse)
    replay = replay_of(*(letter_record(n, value=value) for n, value in enumerate((b"a", b"large", b"b"))))

    await _Replayer(producer, replay, 1).run({})

    assert [b"a", b"b"] == producer.originals()


async def test_a_full_ledger_is_said_and_other_partitions_go_on() -> None:
    def refuse(records: Sequence[OutRecord]) -> None:
        if records[-1].key == b"0":
            raise RecordTooLargeError("too large", len(records) - 1)

    producer = FakeProducer(refuse)
    replay = replay_of(letter_record(0), letter_record(1), letter_record(0, partition=1, value=b"other"))

    report = await _Replayer(producer, replay, 1).run({})

    assert [b"other"] == producer.originals()
    assert {Place(0, 0), Place(0, 1)} == set(report.refused)
    assert "the ledger has no room" in report.refused[Place(0, 0)]


async def test_an_aborted_transaction_is_published_again_as_it_was() -> None:
    failures = iter([BusError("aborted"), BusError("aborted")])

    def refuse(_records: Sequence[OutRecord]) -> None:
        if error := next(failures, None):
            raise error

    producer = FakeProducer(refuse)
    report = await _Replayer(producer, replay_of(letter_record(0, value=b"0")), 4).run({})

    assert ([b"0"], "") == (producer.originals(), report.interruption)
    assert 1 == len(set(producer.attempts))
    assert 3 == len(producer.attempts)


async def test_a_bus_that_goes_on_refusing_ends_the_replay() -> None:
    def refuse(_records: Sequence[OutRecord]) -> None:
        raise BusError("no such luck")

    producer = FakeProducer(refuse)
    report = await _Replayer(producer, replay_of(letter_record(0)), 1).run({})

    assert ([], "no such luck") == (report.put_back, report.interruption)
    assert replaying.MAX_ATTEMPTS == len(producer.attempts)


async def test_a_fenced_replay_stops_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replaying, "MAX_STEP", 1)
    producer = FakeProducer()

    def refuse(_records: Sequence[OutRecord]) -> None:
        if producer.written:
            raise PartitionLostError("taken")

    producer._refuse = refuse
    report = await _Replayer(producer, replay_of(letter_record(0), letter_record(1)), 1).run({})

    assert [Place(0, 0)] == report.put_back
    assert "another replay of dead-letters took over" == report.interruption
    assert 2 == len(producer.attempts)


async def test_two_replays_never_speak_the_same_word() -> None:
    """After a lost answer the word tells whose transaction it was that went through."""
    producers = [FakeProducer(), FakeProducer()]
    for producer in producers:
        await _Replayer(producer, replay_of(letter_record(0)), 1).run({})

    assert 2 == len({word for producer in producers for _, word in producer.attempts})


def listing_of(*records: Record, limit: int = 50, **changes: Any) -> Listing:
    listing = Listing(TOPIC, Selection(), limit, **({"marks": {}} | changes))
    for record in records:
        listing.take([record])
    return listing


def rendered(listing: Listing) -> str:
    screen = StringIO()
    Console(file=screen, width=200).print(listing_table(listing))
    return screen.getvalue()


def test_the_newest_are_listed_first_and_all_are_counted() -> None:
    listing = listing_of(*(letter_record(offset, timestamp_ms=offset) for offset in (4, 1, 3, 2)), limit=2)

    assert [4, 3] == [entry.place.offset for entry in listing.entries]
    assert {"malformed": 4} == listing.reasons


def test_the_listing_names_everything_but_the_text() -> None:
    listing = listing_of(
        letter_record(3, reason="model_failed", attempts=2),
        Record(TOPIC, 1, 0, 9_000, b"k", TEXT.encode()),
        marks={0: Mark(0, (range(3, 4),))},
    )

    table, fields = rendered(listing), listing_object(listing)

    for shown in ("0/3", "1970-01-01 00:00:05Z", "classify", "model_failed", "decode", "why", "key", "yes"):
        assert shown in table
    assert "2 of 2 shown" in table
    assert {"model_failed": 1, UNREADABLE: 1} == fields["reasons"]
    assert TEXT not in table + json.dumps(fields)


def test_an_empty_topic_is_said() -> None:
    assert "no dead letters" in rendered(listing_of())


@pytest.mark.parametrize("hostile", ["\x1b[2J", "\x9b31m", "\r\n", "\u202e"])
def test_a_terminal_obeys_nothing_that_a_record_says(hostile: str) -> None:
    record = letter_record(
        3,
        key=hostile.encode(),
        value=encode_value({"text": hostile}, "msgpack"),
        error=hostile,
        reason=hostile,
        topic=hostile,
    )

    shown = rendered(listing_of(record)) + whole(record)

    commands = {character for character in hostile if not character.isprintable()} - {"\n"}
    assert not commands & set(shown)
    assert all(line.isprintable() for line in whole(record).split("\n"))


def test_markup_in_a_record_is_shown_as_it_is() -> None:
    assert "[red]x[/red]" in rendered(listing_of(letter_record(error="[red]x[/red]")))


@pytest.mark.parametrize("width", [80, 140])
def test_a_listing_fits_the_terminal(width: int) -> None:
    screen = StringIO()
    record = letter_record(17, reason="unsupported_language", stage="engine", error="what went wrong " * 5)
    listing = listing_of(record, marks={0: Mark(18)})

    Console(file=screen, width=width).print(listing_table(listing))

    for shown in ("0/17", "engine", "key", "yes"):
        assert shown in screen.getvalue()
    assert max(map(len, screen.getvalue().splitlines())) <= width
    assert len(screen.getvalue().splitlines()) < 12


def test_printable_text_is_left_alone() -> None:
    assert "één 猫 \\x00" == printable("één 猫 \x00")


def test_one_is_shown_whole() -> None:
    shown = whole(letter_record(3))

    assert "from: requests.classify/2/43, written 1970-01-01 00:00:01Z" in shown
    assert "  reason: malformed" in shown
    assert "  ce_id: order-7" in shown
    assert "  odd: -\n  odd: \\xff" in shown
    assert f'"text": "{TEXT}"' in shown


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, "none"),
        (b'{"text": "hi"}', '"text": "hi"'),
        (b"\xc1\x00\xff", "c1 00 ff"),
        (b"\xc1" * 1_000, "(1000 bytes: "),
        (encode_value({"text": b"\x01"}, "msgpack"), "b'\\\\x01'"),
    ],
)
def test_any_value_can_be_shown(value: bytes | None, expected: str) -> None:
    shown = whole(letter_record(3, value=value))

    assert expected in shown
    assert len(shown) < 3_000


def test_what_is_no_dead_letter_can_be_shown() -> None:
    shown = whole(Record(TOPIC, 0, 1, -1, None, b"?", (("h", b"v"),)))

    assert "from: unknown" in shown
    assert "  h: v" in shown


def test_a_replay_says_what_it_would_do_and_did() -> None:
    replay = replay_of(letter_record(0), letter_record(1), letter_record(2, topic="x"), marks={0: Mark(1)})
    report = Report([Place(0, 1)], {Place(0, 5): "why"}, "broken")

    assert [
        "to put back on requests.classify: 1",
        "put back before: 1",
        "refused 0/2: no stream of these settings reads topic 'x'",
    ] == replay_lines(replay)
    assert ["put back: 1", "refused 0/5: why"] == report_lines(report)[:2]
    assert report_lines(report)[2].startswith("ended early: broken;")
    assert ["nothing is selected"] == replay_lines(replay_of())


def test_the_only_dead_letter_topic_need_not_be_named() -> None:
    assert TOPIC == topic_of(load_settings(), None)
    assert TOPIC == topic_of(load_settings(), TOPIC)


@pytest.mark.parametrize("asked", [None, "other"])
def test_one_of_several_dead_letter_topics_must_be_named(asked: str | None) -> None:
    stream = {"task": "classify", "output": "out", "model": "sentiment"}
    streams = {name: stream | {"input": name, "dead_letters": f"bad-{name}"} for name in ("a", "b")}

    with pytest.raises(ConfigError, match="bad-a, bad-b"):
        topic_of(load_settings(streams=streams), asked)


@pytest.mark.parametrize(
    ("arguments", "fault"),
    [
        (["show", "17"], "not a place"),
        (["replay", "0/1", "x"], "not a place"),
        (["list", "--since", "soon"], "not a duration"),
    ],
)
def test_a_bad_argument_is_named(arguments: list[str], fault: str) -> None:
    outcome = CliRunner().invoke(app, ["dead-letters", *arguments])

    assert 2 == outcome.exit_code
    assert fault in outcome.output


def test_an_entry_without_a_letter_has_a_reason() -> None:
    assert UNREADABLE == Entry(Place(0, 0), 0, None, "why").reason
