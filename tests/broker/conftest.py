"""The broker that the tests of this folder run on, and what they need of it."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from loadgen.kafka.brokers import KAFKA, Broker, running_broker
from loadgen.kafka.process import KafkaProcess
from loadgen.kafka.security import BrokerSecurity
from stream_infer.bus.connection import Connection, connect
from stream_infer.bus.topics import TopicSpec, apply
from stream_infer.config import KafkaSettings
from tests.broker.lanes import Lane
from tests.broker.secured_broker import SecuredBroker, TokenIssuer
from tests.broker.service_process import SCORING_STREAM

HERE = Path(__file__).parent

MakeTopic = Callable[..., Awaitable[str]]


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark what takes the broker, and run this folder's tests on the event loop that owns it.

    What takes the secured broker is deselected where the tests are to run on the embedded one.
    """
    is_kafka = config.getoption("--broker") == KAFKA
    unfit = [] if is_kafka else [item for item in items if _is_secured(item)]
    if unfit:
        config.hook.pytest_deselected(items=unfit)
        items[:] = [item for item in items if not _is_secured(item)]
    for item in items:
        if not item.path.is_relative_to(HERE):
            continue
        if _is_secured(item):
            item.add_marker(pytest.mark.broker)
        item.add_marker(pytest.mark.asyncio(loop_scope="session"), append=False)
        # A browser sees the same on every broker, so its tests have a mark of their own instead.
        if "broker" in getattr(item, "fixturenames", ()) and not item.get_closest_marker("browser"):
            item.add_marker(pytest.mark.broker)


def _is_secured(item: pytest.Item) -> bool:
    return "secured" in getattr(item, "fixturenames", ())


@pytest.fixture(scope="session")
def broker_kind(request: pytest.FixtureRequest) -> str:
    """`embedded` or `kafka`."""
    return str(request.config.getoption("--broker"))


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def broker(broker_kind: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Broker]:
    """A broker for the whole session; a test that stops it starts it again."""
    directory = tmp_path_factory.mktemp("broker")
    async with running_broker(broker_kind, directory) as made:
        yield made


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def secured(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[SecuredBroker]:
    """An Apache Kafka that asks who one is, for the whole session; the embedded broker cannot."""
    directory = tmp_path_factory.mktemp("secured")
    security = BrokerSecurity(directory)
    async with KafkaProcess(directory, security.extras) as kafka:
        with TokenIssuer(security) as issuer:
            yield SecuredBroker(kafka, security, issuer, directory)


@pytest.fixture
def connection(broker: Broker) -> Connection:
    """How to reach the broker; sessions and transactions time out soon."""
    settings = KafkaSettings(session_timeout_ms=6_000, transaction_timeout_ms=10_000)
    return connect(settings, broker.bootstrap_servers)


@pytest.fixture
def group() -> str:
    """A consumer group of this test alone."""
    return f"group-{uuid.uuid4().hex[:8]}"


@pytest.fixture
def make_topic(connection: Connection) -> MakeTopic:
    """Creates a topic of this test alone and returns its name."""

    async def make(partitions: int = 1, **settings: Any) -> str:
        name = f"topic-{uuid.uuid4().hex[:8]}"
        spec = TopicSpec(
            name=name, description="", direction="internal", partitions=partitions, key="", **settings
        )
        await apply(connection, [spec])
        return name

    return make


@pytest.fixture
async def lane(connection: Connection, make_topic: MakeTopic, group: str) -> Lane:
    """A stream of its own for each test: four partitions in and out."""
    names = {name: await make_topic(4) for name in ("input", "output", "dead_letters")}
    servers = connection.bootstrap_servers
    settings = SCORING_STREAM.format(group=group, bootstrap_servers=servers, **names)
    return Lane(connection, **names, settings=settings)
