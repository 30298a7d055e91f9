"""The streams role as a process, on a real broker: documents in, passages out, whatever happens."""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from loadgen.kafka.brokers import Broker
from stream_infer.bus.batches import OutRecord
from stream_infer.bus.connection import Connection, connect
from stream_infer.config import KafkaSettings
from stream_infer.retrieval.passages import passage_key
from tests.broker.embedding_double import POISON
from tests.broker.probes import read_committed
from tests.broker.streams_process import Passages, StreamsProcess, running_streams

ORDERLY, KILLED, MISCONFIGURED = 0, -signal.SIGKILL, 2
DOCUMENTS = 40


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def role(broker: Broker, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[StreamsProcess]:
    """One running role for the tests that do not end it; each uses documents of its own."""
    connection = connect(KafkaSettings(session_timeout_ms=6_000), broker.bootstrap_servers)
    async with running_streams(connection, tmp_path_factory.mktemp("streams")) as running:
        yield running


def text_of(paragraphs: int, word: str = "word") -> str:
    """Return a text that becomes as many passages as it has paragraphs."""
    return "\n\n".join(f"Paragraph {number}. " + f"{word} " * 60 for number in range(paragraphs))


def numbers(passages: Passages, document: str) -> set[int]:
    """Return the numbers of the passages that the document has."""
    return {number for name, number in passages if name == document}


async def test_a_document_becomes_passages(role: StreamsProcess) -> None:
    text = text_of(3)
    await role.put(role.version("new", text, title="A title"))

    passages = await role.passages_until(lambda found: len(numbers(found, "new")) == 3)

    first = passages["new", 0]
    assert "tests" == first.passage.collection
    assert "A title" == first.passage.title
    assert text[first.passage.start : first.passage.end] == first.passage.text
    assert 4 == first.vector.size
    assert "embedding_double" in first.revision


async def test_passages_that_a_shorter_version_no_longer_has_are_deleted(role: StreamsProcess) -> None:
    await role.put(role.version("shrinking", text_of(4)))
    await role.passages_until(lambda found: len(numbers(found, "shrinking")) == 4)

    await role.put(role.version("shrinking", text_of(2, word="shorter")))

    await role.passages_until(
        lambda found: (
            numbers(found, "shrinking") == {0, 1} and "shorter" in found["shrinking", 1].passage.text
        )
    )


async def test_a_null_value_deletes_all_passages(role: StreamsProcess) -> None:
    await role.put(role.version("short-lived", text_of(3)))
    await role.passages_until(lambda found: len(numbers(found, "short-lived")) == 3)

    await role.put(role.version("short-lived", None))

    seen: set[int] = set()

    def is_deleted(found: Passages) -> bool:
        # Partitions are read one after another, so the three are seldom there at the same time.
        seen.update(numbers(found, "short-lived"))
        return seen == {0, 1, 2} and not numbers(found, "short-lived")

    await role.passages_until(is_deleted)


async def test_the_same_document_twice_gives_the_same_passages(role: StreamsProcess) -> None:
    await role.put(*(role.version("twice", text_of(count)) for count in (2, 2, 3)))
    await role.passages_until(lambda found: len(numbers(found, "twice")) == 3)

    written = await read_committed(role.connection, f"{role.name}-passages")
    values = [record.value for record in written if record.key == passage_key("tests", "twice", 0)]
    assert 3 == len(values)
    assert 1 == len(set(values))


async def test_a_bad_document_becomes_a_dead_letter(role: StreamsProcess) -> None:
    await role.put(OutRecord(f"{role.name}-documents", b"tests/bad", b'{"document": "bad", "text": 7}'))

    letter = await role.dead_letter_of(b"tests/bad")

    assert "invalid_field" == letter.reason
    assert "documents" == letter.stream
    assert b'{"document": "bad", "text": 7}' == letter.record.value
    assert f"{role.name}-documents" == letter.record.topic


async def test_a_document_that_the_model_cannot_read_stays_alone(role: StreamsProcess) -> None:
    await role.put(role.version("poison", f"{POISON} {text_of(1)}"), role.version("healthy", text_of(1)))

    assert "model_failed" == (await role.dead_letter_of(b"tests/poison")).reason
    await role.passages_until(lambda found: ("healthy", 0) in found)


@pytest.mark.slow
async def test_nothing_is_lost_when_the_role_ends_in_the_middle_of_its_work(
    connection: Connection, tmp_path: Path
) -> None:
    """Faust alone loses documents here: it commits what it dropped while stopping and starting."""
    async with running_streams(connection, tmp_path) as role:
        for text in (text_of(3), text_of(2, word="final")):
            await role.put(*(role.version(f"doc-{document}", text) for document in range(DOCUMENTS)))
        await role.passages_until(lambda found: len(found) >= DOCUMENTS // 2)
        assert KILLED == await role.end(signal.SIGKILL)
        await role.start()
        await role.passages_until(lambda found: len(found) >= DOCUMENTS)
        assert ORDERLY == await role.end(signal.SIGTERM)
        await role.start()

        wanted = {(f"doc-{document}", part) for document in range(DOCUMENTS) for part in (0, 1)}
        await role.passages_until(
            lambda found: (
                found.keys() == wanted and all("final" in passage.passage.text for passage in found.values())
            )
        )


async def test_the_role_names_the_topics_that_are_missing(connection: Connection, tmp_path: Path) -> None:
    role = StreamsProcess(connection, tmp_path)
    await role.start()

    assert MISCONFIGURED == await role.wait()
    assert f"{role.name}-documents" in role.log_path.read_text()
    assert "stream-infer topics apply" in role.log_path.read_text()


async def test_state_must_be_partitioned_like_the_documents(connection: Connection, tmp_path: Path) -> None:
    role = StreamsProcess(connection, tmp_path)
    await role.make_topics(changelog_partitions=2)
    await role.start()

    assert MISCONFIGURED == await role.wait()
    assert "must have as many as" in role.log_path.read_text()
