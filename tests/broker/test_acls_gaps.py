"""Each entry of deploy/acls.yaml is needed: without it its role fails, and the error names the resource."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence
from itertools import count
from typing import Final

import msgpack
import pytest
import pytest_asyncio
from confluent_kafka.admin import AdminClient
from structlog.testing import capture_logs

from stream_infer.bus.batches import OutRecord
from stream_infer.bus.client_codec import encode_document
from stream_infer.bus.codec import encode_redacted_dead_letter
from stream_infer.bus.connection import Connection, connect, open_admin
from stream_infer.bus.publisher import Publisher
from stream_infer.bus.replays import ledger_of
from stream_infer.bus.topics import apply, check, load_specs
from stream_infer.client import Client
from stream_infer.config import Settings
from stream_infer.config_loading import load_settings
from stream_infer.errors import AccessRefusedError
from stream_infer.flow.replay import Selection
from stream_infer.schemas import DeadLetter
from stream_infer.service.broker import check_topics
from stream_infer.service.dead_letters import prepare_replay
from stream_infer.service.following import follow_quality
from stream_infer.service.quality import QualityBoard
from stream_infer.service.replaying import put_back
from stream_infer.service.worker import Worker
from stream_infer.streams.needs import check_needs
from tests.broker.probes import read_committed
from tests.broker.secured_broker import SecuredBroker
from tests.broker.test_acls import TASKS, Entry, entries

PATIENCE: Final = 60.0
SUPERUSER: Final = "SCRAM-SHA-512"
SCORER: Final = {
    "kind": "classify",
    "source": "python:tests.broker.scoring_double:scorer",
    "precision": "fp32",
}
CLASSIFY: Final = {"task": "classify", "input": "requests.classify", "output": "results.classify"}
LEDGER: Final = ledger_of("dead-letters").topic

OPTIONAL: Final = {
    Entry("cluster", "kafka-cluster", "DescribeConfigs"): "replication_default_unknown",
    Entry("topic", "quality", "Read"): "quality_not_followed",
}
"""What its role goes on without, as the file says, and the event by which it says so."""
OF_FAUST: Final = (
    *(entry for entry in entries("streams") if entry.name.endswith("-changelog")),
    *(Entry("topic", "observations", operation) for operation in ("Read", "Write")),
    Entry("group", "stream-infer-streams", "Read"),
)
"""Faust's own clients need these after the start; that they use them is seen in `test_acls.py`."""

Work = Callable[[Connection, Entry], Awaitable[object]]


class Gaps:
    """A broker on which a user has what a role has, but for one entry."""

    def __init__(self, secured: SecuredBroker) -> None:
        self.everything = connect(secured.settings(SUPERUSER))
        self._secured = secured
        self._numbers = count()
        self._admin = AdminClient({"bootstrap.servers": secured.kafka.bootstrap_servers})

    def without(self, role: str, gap: Entry) -> Connection:
        """Return how somebody reaches the broker who lacks an entry."""
        user = f"gap-{next(self._numbers)}"
        # Who may write nothing at all may not even begin to: the error would be about that.
        others = [*(entry for entry in entries(role) if entry != gap), Entry("topic", "elsewhere", "Write")]
        for granted in self._admin.create_acls([entry.binding(user) for entry in others]).values():
            granted.result(PATIENCE)
        return connect(
            self._secured.settings("mTLS", **self._secured.ways(user)["mTLS"], session_timeout_ms=6_000)
        )

    async def misses(self, role: str, work: Work, gaps: Sequence[Entry]) -> list[str]:
        """Return the entries without which the role works, or fails without naming what it lacks."""
        return [
            f"{gap.operation} on {gap.kind} {gap.name}: {said or 'it works'}"
            for gap in gaps
            if gap.name not in (said := await _refusal(work(self.without(role, gap), gap)))
        ]


async def _refusal(working: Awaitable[object]) -> str:
    """Return how it is said that access is refused, or nothing."""
    said = ""
    try:
        async with asyncio.timeout(PATIENCE):
            await working
    except* AccessRefusedError as errors:
        said = str(_first(errors))
    return said


def _first(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def operations(role: str, *names: str) -> list[Entry]:
    """Return the entries of a role that are no options, those of these operations or all."""
    return [
        entry for entry in entries(role) if entry not in OPTIONAL and (not names or entry.operation in names)
    ]


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def gaps(secured: SecuredBroker) -> AsyncIterator[Gaps]:
    """A broker without any of the topics."""
    made = Gaps(secured)
    await _delete(made.everything, {spec.name for spec in load_specs()})
    yield made


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def topics(gaps: Gaps) -> None:
    """All topics, but for the ledger, which a replay makes."""
    await apply(gaps.everything, [spec for spec in load_specs() if spec.name != LEDGER])


async def test_topics_are_not_created_without_leave(gaps: Gaps) -> None:
    async def create(connection: Connection, gap: Entry) -> None:
        await apply(connection, [spec for spec in load_specs() if spec.name == gap.name])

    assert [] == await gaps.misses("topics", create, operations("topics", "Create"))


@pytest.mark.usefixtures("topics")
async def test_topics_are_not_compared_without_leave(gaps: Gaps) -> None:
    async def compare(connection: Connection, gap: Entry) -> None:
        await check(connection, [spec for spec in load_specs() if spec.name == gap.name])

    needed = operations("topics", "Describe", "DescribeConfigs")
    assert [] == await gaps.misses("topics", compare, needed)


@pytest.mark.usefixtures("topics")
async def test_a_worker_needs_each_of_its_entries(gaps: Gaps) -> None:
    async def serve(connection: Connection, gap: Entry) -> None:
        settings = load_settings(kafka={}, web={"enabled": False})
        await check_topics(connection, settings)
        # With all topics there, one task tells of what is not a task's.
        settings = _scoring(connection)
        text = f"{gap.name} {gap.operation}"
        async with Publisher(gaps.everything) as publisher:
            await publisher.publish([OutRecord("requests.classify", b"k", msgpack.packb({"text": text}))])
        await Worker(settings, connection).run(asyncio.Event())

    assert [] == await gaps.misses("worker", serve, operations("worker"))


@pytest.mark.usefixtures("topics")
async def test_side_streams_need_each_of_their_topics(gaps: Gaps) -> None:
    async def start(connection: Connection, _gap: Entry) -> None:
        await check_needs(connection, load_settings())

    needed = [entry for entry in operations("streams") if entry not in OF_FAUST]
    assert [] == await gaps.misses("streams", start, needed)


@pytest.mark.usefixtures("topics")
async def test_a_client_needs_each_of_its_entries(gaps: Gaps) -> None:
    async def ask(connection: Connection, gap: Entry) -> None:
        async with Client(settings=connection.settings) as client:
            if gap.name == "feedback":
                await client.feedback("id", "positive")
            elif gap.name.endswith("classify"):
                await client.classify("text", timeout=PATIENCE)
            elif gap.name.endswith("translate"):
                await client.translate("text", target="pt", timeout=PATIENCE)
            else:
                await client.answer("question", timeout=PATIENCE)

    assert [] == await gaps.misses("client", ask, operations("client"))


@pytest.mark.usefixtures("topics")
async def test_who_writes_documents_needs_to_be_let(gaps: Gaps) -> None:
    async def write(connection: Connection, _gap: Entry) -> None:
        async with Publisher(connection) as publisher:
            await publisher.publish([encode_document("documents", "kettle", "It boils.")])

    assert [] == await gaps.misses("documents", write, operations("documents"))


@pytest.mark.usefixtures("topics")
async def test_a_replay_needs_each_of_its_entries(gaps: Gaps) -> None:
    """The one that makes the ledger first, for the others need one; a dead letter of each stream is left."""
    inputs = [f"requests.{task}" for task in TASKS]
    async with Publisher(gaps.everything) as publisher:
        await publisher.publish([OutRecord(topic, b"k", b"v") for topic in inputs])
        records = [(await read_committed(gaps.everything, topic))[-1] for topic in inputs]
        letters = [
            DeadLetter(record, "id", record.topic.partition(".")[2], "late", "why", "decode")
            for record in records
        ]
        await publisher.publish([encode_redacted_dead_letter(letter, "dead-letters") for letter in letters])

    async def replay(connection: Connection, gap: Entry) -> None:
        stream = gap.name.partition(".")[2] if gap.name in inputs else TASKS[0]
        settings = load_settings().model_copy(update={"kafka": connection.settings})
        selected = await prepare_replay(settings, "dead-letters", Selection(stream=stream))
        report = await put_back(settings, selected)
        if "access is refused" in report.interruption:
            raise AccessRefusedError(report.interruption)

    needed = operations("dead-letters")
    needed.sort(key=lambda entry: (entry.operation != "Create", entry.operation != "DescribeConfigs"))
    assert [] == await gaps.misses("dead-letters", replay, needed)


@pytest.mark.usefixtures("topics")
async def test_what_is_optional_is_done_without_and_said(gaps: Gaps) -> None:
    cluster, quality = OPTIONAL
    (ledger,) = [spec for spec in load_specs() if spec.name == LEDGER]
    await _delete(gaps.everything, {LEDGER})
    with capture_logs() as logs:
        assert [LEDGER] == await apply(gaps.without("dead-letters", cluster), [ledger])
        following = follow_quality(gaps.without("worker", quality), quality.name, QualityBoard({}))
        task = asyncio.create_task(following)
        async with asyncio.timeout(PATIENCE):
            while len(logs) < len(OPTIONAL):  # noqa: ASYNC110 - a log sets no event
                await asyncio.sleep(0.05)
        task.cancel()

    assert [*OPTIONAL.values()] == [entry["event"] for entry in logs]


async def _delete(connection: Connection, names: Collection[str]) -> None:
    """Take topics away that are there, and return once they are gone."""
    async with open_admin(connection) as admin:
        if present := set(names) & set(await admin.list_topics()):
            await admin.delete_topics(sorted(present))
        while present & set(await admin.list_topics()):  # noqa: ASYNC110 - a broker sets no event
            await asyncio.sleep(0.1)


def _scoring(connection: Connection) -> Settings:
    settings = load_settings(
        service={"group": "stream-infer"},
        models={"scorer": SCORER},
        streams={"classify": {**CLASSIFY, "model": "scorer"}},
        cache={"shared": True, "max_bytes": 1_000_000},
        web={"enabled": False},
    )
    return settings.model_copy(update={"kafka": connection.settings})
