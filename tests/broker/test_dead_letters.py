"""Dead letters through real topics: found, shown, and put back once, whoever is cut off when."""

import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from aiokafka import AIOKafkaProducer
from typer.testing import CliRunner, Result

from stream_infer.bus.batches import OutRecord, key_hash
from stream_infer.bus.codec import (
    encode_bare_dead_letter,
    encode_dead_letter,
    encode_redacted_dead_letter,
)
from stream_infer.bus.connection import Connection
from stream_infer.bus.offsets import Committed
from stream_infer.bus.publisher import Publisher
from stream_infer.bus.replays import ensure_ledger, ledger_of
from stream_infer.bus.topics import TopicSpec, apply
from stream_infer.bus.transactions import TransactionalProducer
from stream_infer.cli import app
from stream_infer.config import Settings
from stream_infer.config_loading import load_settings
from stream_infer.errors import ConfigError
from stream_infer.flow.replay import Place, Selection
from stream_infer.schemas import DeadLetter, Record
from stream_infer.service import replaying
from stream_infer.service.dead_letters import find, prepare_replay, read_one
from stream_infer.service.replaying import Report, put_back
from tests.broker.conftest import MakeTopic
from tests.broker.probes import PATIENCE, read_committed, read_values, write

EVERYTHING = Selection()
REASONS = ("malformed", "late")
SENDS = 3
"""Batches of a transaction that puts two dead letters back: each has its own partition, and the ledger."""


@dataclass(frozen=True, slots=True)
class Desk:
    """A stream's topics, and settings that know them."""

    connection: Connection
    settings: Settings
    topic: str
    inputs: str

    def letter(self, number: int, key: bytes | None = None, topic: str = "") -> DeadLetter:
        """Return one of many dead letters, of the reasons in turn."""
        headers = (("ce_id", b"id-%d" % number), ("none", None))
        record = Record(topic or self.inputs, number % 3, number, 1_000, key, b"%d" % number, headers)
        return DeadLetter(record, f"id-{number}", "posts", REASONS[number % 2], "why", "decode")

    async def file(self, *letters: DeadLetter) -> None:
        """Write dead letters as the service does; all without a key go to one partition."""
        async with Publisher(self.connection) as publisher:
            await publisher.publish([encode_dead_letter(letter, self.topic) for letter in letters])

    async def replay(self, selection: Selection = EVERYTHING) -> Report:
        """Put back what is selected."""
        return await put_back(self.settings, await prepare_replay(self.settings, self.topic, selection))

    async def put_back_values(self) -> list[bytes | None]:
        """Return what lies on the input topic, sorted."""
        return sorted(await read_values(self.connection, self.inputs), key=str)


@pytest_asyncio.fixture(loop_scope="session")
async def desk(connection: Connection, make_topic: MakeTopic) -> Desk:
    topic, inputs = await make_topic(partitions=2), await make_topic(partitions=3)
    stream = {"task": "classify", "input": inputs, "output": "o", "dead_letters": topic, "model": "sentiment"}
    kafka = {"bootstrap_servers": connection.bootstrap_servers, "transaction_timeout_ms": 10_000}
    return Desk(connection, load_settings(kafka=kafka, streams={"posts": stream}), topic, inputs)


def numbers(count: int) -> list[bytes]:
    return sorted((b"%d" % number for number in range(count)), key=str)


async def test_what_was_filed_is_found_and_shown(desk: Desk) -> None:
    await desk.file(*(desk.letter(number) for number in range(5)))
    await write(desk.connection, desk.topic, [b"not ours"])

    listing = await find(desk.settings, desk.topic, EVERYTHING, 50)
    late = await find(desk.settings, desk.topic, Selection(reason="late"), 1)
    record = await read_one(desk.settings, desk.topic, late.entries[0].place)

    assert {"malformed": 3, "late": 2, "unreadable": 1} == listing.reasons
    assert ({"late": 2}, 1) == (late.reasons, len(late.entries))
    assert b"3" == record.value
    with pytest.raises(ConfigError, match="no such dead letter"):
        await read_one(desk.settings, desk.topic, Place(0, 999))


async def test_originals_come_back_as_they_were_and_where_they_were(desk: Desk) -> None:
    """A producer may have its own way to choose a partition; keys keep their order only there."""
    keyed = next(key for key in (b"%d" % number for number in range(9)) if key_hash(key) % 3 != 1)
    await desk.file(desk.letter(1, keyed), desk.letter(2))

    await desk.replay()

    found = {record.value: record for record in await read_committed(desk.connection, desk.inputs)}
    headers = (("ce_id", b"id-1"), ("none", None))
    assert (keyed, headers, 1) == (found[b"1"].key, tuple(found[b"1"].headers), found[b"1"].partition)
    assert (None, 2) == (found[b"2"].key, found[b"2"].partition)


async def test_each_goes_back_once_over_many_selections(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replaying, "MAX_STEP", 2)
    for start in (0, 4):
        await desk.file(*(desk.letter(number, b"%d" % number) for number in range(start, start + 4)))
    place = (await find(desk.settings, desk.topic, Selection(reason="late"), 1)).entries[0].place
    selections = [
        Selection(reason="late", places=frozenset({place})),
        Selection(reason="late"),
        Selection(reason="late"),
        EVERYTHING,
        EVERYTHING,
    ]

    went = [len((await desk.replay(selection)).put_back) for selection in selections]

    assert [1, 3, 0, 4, 0] == went
    assert numbers(8) == await desk.put_back_values()
    listing = await find(desk.settings, desk.topic, EVERYTHING, 50)
    assert all(listing.is_replayed(entry) for entry in listing.entries)


async def test_what_is_not_selected_stays_for_later(desk: Desk) -> None:
    await desk.file(*(desk.letter(number) for number in range(4)))
    await desk.replay(Selection(reason="late"))

    listing = await find(desk.settings, desk.topic, EVERYTHING, 50)

    assert {"late": True, "malformed": False} == {
        entry.reason: listing.is_replayed(entry) for entry in listing.entries
    }


async def test_what_cannot_go_is_refused_and_the_others_go(desk: Desk, make_topic: MakeTopic) -> None:
    large = desk.letter(2)
    small = await make_topic(max_message_bytes=1_000)
    stream = desk.settings.streams["posts"]
    streams = {name: stream.model_copy(update={"input": name}) for name in ("gone", small)}
    settings = desk.settings.model_copy(update={"streams": desk.settings.streams | streams})
    huge = DeadLetter(Record(small, 0, 0, 0, None, b"x" * 5_000), "id", "posts", "late", "why", "decode")
    async with Publisher(desk.connection) as publisher:
        await publisher.publish(
            [
                encode_dead_letter(desk.letter(0), desk.topic),
                encode_dead_letter(desk.letter(1, topic="gone"), desk.topic),
                encode_bare_dead_letter(large, desk.topic),
                encode_dead_letter(huge, desk.topic),
                encode_dead_letter(desk.letter(4), desk.topic),
                OutRecord(desk.topic, None, b"not ours"),
            ]
        )

    replay = await prepare_replay(settings, desk.topic, EVERYTHING)
    report = await put_back(settings, replay)

    assert [b"0", b"4"] == await desk.put_back_values()
    assert [1, 2, 5] == sorted(place.offset for place in replay.refused)
    assert [(3, "the broker refuses it for its size")] == [
        (place.offset, why) for place, why in report.refused.items()
    ]


async def test_redacted_ones_go_back_as_their_records_are(desk: Desk) -> None:
    """Read again from where they lie, be they large or far apart; what is gone is refused."""
    values = [b"%d" % number * (100_000 if number % 50 == 0 else 1) for number in range(200)]
    async with Publisher(desk.connection) as publisher:
        for start in range(0, 200, 50):
            records = [
                OutRecord(desk.inputs, b"key", v, [("h", b"1")], 2) for v in values[start : start + 50]
            ]
            await publisher.publish(records)
    sources = {record.value: record for record in await read_committed(desk.connection, desk.inputs)}
    wanted = [values[number] for number in (0, 1, 120, 199)]
    gone = sources[values[5]]._replace(offset=777), sources[values[6]]._replace(value=b"another")
    letters = [
        DeadLetter(source, "id", "posts", "late", "why", "decode")
        for source in (*(sources[value] for value in wanted), *gone)
    ]
    async with Publisher(desk.connection) as publisher:
        await publisher.publish([encode_redacted_dead_letter(letter, desk.topic) for letter in letters])

    replay = await prepare_replay(desk.settings, desk.topic, EVERYTHING)
    report = await put_back(desk.settings, replay)

    assert ["another record now", "not there any more"] == sorted(
        " ".join(why.split()[-3:] if "another" in why else why.split()[-4:])
        for why in replay.refused.values()
    )
    assert 4 == len(report.put_back)
    found = (await read_committed(desk.connection, desk.inputs))[len(values) :]
    assert sorted(wanted) == sorted(record.value or b"" for record in found)
    assert {(b"key", (("h", b"1"),), 2)} == {
        (record.key, tuple(record.headers), record.partition) for record in found
    }


@pytest.mark.parametrize(
    ("step", "when"),
    [
        ("begin_transaction", "before"),
        ("send_batch", "before"),
        ("send_offsets_to_transaction", "before"),
        ("send_offsets_to_transaction", "after"),
        ("commit_transaction", "before"),
        ("commit_transaction", "after"),
    ],
)
async def test_a_replay_cut_off_anywhere_and_done_again_puts_each_back_once(
    step: str, when: str, desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second of three transactions is cut off, as by a kill: nothing more is said to the broker."""
    monkeypatch.setattr(replaying, "MAX_STEP", 2)
    await desk.file(*(desk.letter(number) for number in range(5)))
    await desk.replay(Selection(reason="none of them"))
    reached = asyncio.Event()
    calls = 0
    real = getattr(AIOKafkaProducer, step)

    async def hanging(self: Any, *arguments: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        is_cut_off = calls > (SENDS + 1 if step == "send_batch" else 1)
        result = None if is_cut_off and when == "before" else await real(self, *arguments, **options)
        if is_cut_off:
            reached.set()
            await asyncio.Event().wait()
        return result

    with monkeypatch.context() as patch:
        patch.setattr(AIOKafkaProducer, step, hanging)
        doomed = asyncio.create_task(desk.replay())
        async with asyncio.timeout(PATIENCE):
            await reached.wait()
        doomed.cancel()
        await asyncio.gather(doomed, return_exceptions=True)
    report = await desk.replay()

    committed = 4 if (step, when) == ("commit_transaction", "after") else 2
    assert (5 - committed, "") == (len(report.put_back), report.interruption)
    assert numbers(5) == await desk.put_back_values()


async def test_a_replay_overtaken_by_another_writes_nothing_more(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first has read the ledger and is about to write when the second takes over."""
    await desk.file(*(desk.letter(number) for number in range(3)))
    ready, go_on = asyncio.Event(), asyncio.Event()
    begin = AIOKafkaProducer.begin_transaction

    async def waiting(self: Any) -> None:
        monkeypatch.undo()
        ready.set()
        await go_on.wait()
        await begin(self)

    monkeypatch.setattr(AIOKafkaProducer, "begin_transaction", waiting)
    first = asyncio.create_task(desk.replay())
    async with asyncio.timeout(PATIENCE):
        await ready.wait()
        second = await desk.replay()
        go_on.set()
        overtaken = await first

    assert (3, "") == (len(second.put_back), second.interruption)
    assert ([], f"another replay of {desk.topic} took over") == (
        overtaken.put_back,
        overtaken.interruption,
    )
    assert numbers(3) == await desk.put_back_values()


async def test_the_ledger_is_read_after_the_fence(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """All goes back by another replay between the first's selection and its fence."""
    await desk.file(*(desk.letter(number) for number in range(3)))
    fence = TransactionalProducer.open

    async def fence_late(self: TransactionalProducer) -> Committed:
        monkeypatch.undo()
        assert 3 == len((await desk.replay()).put_back)
        return await fence(self)

    monkeypatch.setattr(TransactionalProducer, "open", fence_late)

    assert ([], "") == ((report := await desk.replay()).put_back, report.interruption)
    assert numbers(3) == await desk.put_back_values()


async def test_replays_at_once_put_each_back_once(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replaying, "MAX_STEP", 2)
    await desk.file(*(desk.letter(number) for number in range(9)))

    async with asyncio.timeout(PATIENCE):
        outcomes = await asyncio.gather(*(desk.replay() for _ in range(3)), return_exceptions=True)
        await desk.replay()

    assert numbers(9) == await desk.put_back_values()
    assert any(isinstance(outcome, Report) for outcome in outcomes)


async def test_what_went_back_is_remembered_without_the_groups_offsets(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Brokers forget the offsets of a group without members after a week."""
    await desk.file(desk.letter(0))
    await desk.replay()

    monkeypatch.setattr(replaying, "GROUP", "a-group-that-never-committed")

    assert [] == (await desk.replay()).put_back
    assert numbers(1) == await desk.put_back_values()


async def test_a_ledger_that_the_broker_would_forget_is_refused(desk: Desk) -> None:
    spec = TopicSpec(
        name=ledger_of(desk.topic).topic, description="", direction="internal", partitions=1, key=""
    )
    await apply(desk.connection, [spec])

    with pytest.raises(ConfigError, match=r"cleanup\.policy is delete, declared is compact"):
        await ensure_ledger(desk.connection, desk.topic)


async def run_command(desk: Desk, directory: Path, *arguments: str, typed: str = "") -> Result:
    """Run a command as a person would, with the settings in a file."""
    stream = desk.settings.streams["posts"]
    config = directory / "stream-infer.toml"
    config.write_text(
        f'[kafka]\nbootstrap_servers = "{desk.connection.bootstrap_servers}"\n'
        f'[streams.posts]\ntask = "classify"\ninput = "{stream.input}"\noutput = "o"\n'
        f'dead_letters = "{stream.dead_letters}"\nmodel = "sentiment"\n'
    )
    command = ["dead-letters", *arguments, "--config", str(config)]
    return await asyncio.to_thread(CliRunner().invoke, app, command, input=typed)


def listed(outcome: Result) -> Sequence[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(outcome.stdout)["dead_letters"]
    return found


async def test_the_commands_do_as_they_say(desk: Desk, tmp_path: Path) -> None:
    await desk.file(desk.letter(0), desk.letter(1), desk.letter(2))

    (late,) = listed(await run_command(desk, tmp_path, "list", "--reason", "late", "--since", "1h", "--json"))
    table = await run_command(desk, tmp_path, "list")
    shown = await run_command(desk, tmp_path, "show", late["place"])
    dry = await run_command(desk, tmp_path, "replay", late["place"], "--dry-run")
    declined = await run_command(desk, tmp_path, "replay", late["place"], typed="n\n")
    nothing = await desk.put_back_values()
    accepted = await run_command(desk, tmp_path, "replay", late["place"], typed="y\n")
    refused = await run_command(desk, tmp_path, "replay", late["place"], "0/999", "--yes")

    assert ("late", False) == (late["reason"], late["replayed"])
    assert "3 of 3 shown: malformed 2, late 1" in table.stdout
    assert f"from: {desk.inputs}/1/1" in shown.stdout
    assert (0, f"to put back on {desk.inputs}: 1\n") == (dry.exit_code, dry.stdout)
    assert (1, []) == (declined.exit_code, nothing)
    assert (0, "put back: 1") == (accepted.exit_code, accepted.stdout.splitlines()[-1])
    assert (1, ["put back before: 1", "refused 0/999: there is no such dead letter"]) == (
        refused.exit_code,
        refused.stdout.splitlines(),
    )
    assert [b"1"] == await desk.put_back_values()
    assert [late["place"]] == [
        letter["place"]
        for letter in listed(await run_command(desk, tmp_path, "list", "--json"))
        if letter["replayed"]
    ]
