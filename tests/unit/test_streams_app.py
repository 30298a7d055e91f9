import asyncio
import ssl
from types import SimpleNamespace
from typing import Any

import faust
import pytest

from stream_infer.bus.connection import connect
from stream_infer.bus.topics import specs_for
from stream_infer.config import Settings
from stream_infer.config_loading import load_settings
from stream_infer.errors import ConfigError
from stream_infer.schemas import Record, Task
from stream_infer.streams.agent import to_record
from stream_infer.streams.app import AGENTS, StreamsApp, credentials
from stream_infer.streams.needs import check_counts, check_single, dead_letters_topic, state_topics
from stream_infer.streams.role import EXIT_HARD_STOP, StopRequest, run_streams
from stream_infer.streams.table import DurableTable
from stream_infer.streams.transport import CommittedTransport


def make_app(settings: Settings) -> StreamsApp:
    unused: Any = object()
    publishers = dict.fromkeys(AGENTS, unused)
    return StreamsApp(settings, connect(settings.kafka), unused, publishers, "unused")


def only(task: str) -> Settings:
    model = "encoder" if task == "answer" else "translator" if task == "translate" else "sentiment"
    stream = {"task": task, "input": "in", "output": "out", "dead_letters": "bad", "model": model}
    return load_settings(streams={"one": stream})


async def test_faust_gives_changelogs_the_names_that_are_checked_and_declared() -> None:
    settings = load_settings(side_streams={"application": "other"})

    app = make_app(settings)

    assert 3 == len(state_topics(settings))
    assert "other-passage-counts-changelog" in state_topics(settings)
    assert state_topics(settings).keys() == app.faust.tables.changelog_topics
    assert state_topics(settings).keys() <= {spec.name for spec in specs_for(settings)}


@pytest.mark.parametrize(
    ("task", "agents"), [("answer", {"documents"}), ("classify", {"labels", "observations"})]
)
async def test_agents_are_those_that_the_streams_need(task: str, agents: set[str]) -> None:
    assert agents == set(make_app(only(task)).faust.agents)
    assert not state_topics(only("translate"))


async def test_only_committed_records_are_read() -> None:
    """Results are written in transactions, and Faust by itself reads aborted ones too."""
    app = make_app(load_settings()).faust
    consumer: Any = app.consumer

    reading = consumer._new_consumer_thread()._create_worker_consumer(app.transport)
    await reading.stop()

    assert isinstance(app.transport, CommittedTransport)
    assert "read_committed" == reading._isolation_level
    assert "AbortFilter.send" == reading._client.send.__qualname__


async def test_changes_of_a_table_are_waited_for() -> None:
    """Faust's own flush gives up after a tenth of a second."""
    app = make_app(only("classify")).faust
    table: Any = app.tables["trend-windows"]
    sent: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    table.changelog_topic.send_soon = lambda **_message: sent

    assert isinstance(table, DurableTable)
    table.send_changelog(0, b"key", b"value")
    confirming = asyncio.ensure_future(table.confirm())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert not confirming.done()

    sent.set_result(None)
    await confirming


async def test_the_web_server_is_off_or_on_loopback() -> None:
    assert not make_app(load_settings()).faust.conf.web_enabled

    configured = make_app(load_settings(side_streams={"port": 6_066})).faust.conf
    assert (True, "127.0.0.1", 6_066) == (configured.web_enabled, configured.web_bind, configured.web_port)


async def test_settings_of_the_broker_reach_faust() -> None:
    kafka = {"bootstrap_servers": "a:1, b:2", "session_timeout_ms": 9_000, "instance_id": "one"}

    configured = make_app(load_settings(kafka=kafka)).faust.conf

    assert ["aiokafka://a:1", "aiokafka://b:2"] == [str(url) for url in configured.broker]
    assert (9.0, 3.0) == (configured.broker_session_timeout, configured.broker_heartbeat_interval)
    assert "one" == configured.consumer_group_instance_id
    assert not configured.topic_allow_declare


async def test_a_buffer_survives_the_resuming_of_the_flow() -> None:
    """Faust resumes the flow after it has let the first records in, and would drop them."""
    app = make_app(load_settings())
    topic = app.faust.agents["documents"].channel
    assert 16 == topic.queue.maxsize
    topic.queue.put_nowait("record")

    app.faust.flow_control.resume()

    assert "record" == topic.queue.get_nowait()


def test_credentials_are_mapped() -> None:
    context = ssl.create_default_context()
    sasl = {"sasl_mechanism": "SCRAM-SHA-512", "sasl_plain_username": "u", "sasl_plain_password": "p"}

    assert credentials({}) is None
    assert "SSL" == protocol(credentials({"ssl_context": context}))
    assert "SASL_PLAINTEXT" == protocol(credentials(sasl))
    assert "SASL_SSL" == protocol(credentials({**sasl, "ssl_context": context}))


def protocol(found: Any) -> str:
    assert isinstance(found, faust.SASLCredentials | faust.SSLCredentials)
    return str(found.protocol.value)


@pytest.mark.parametrize("headers", [[("a", b"1")], {"a": b"1"}])
def test_messages_become_records(headers: object) -> None:
    message = SimpleNamespace(
        topic="documents", partition=2, offset=7, timestamp=1.5, key=b"k", value=b"v", headers=headers
    )
    assert Record("documents", 2, 7, 1_500, b"k", b"v", (("a", b"1"),)) == to_record(message)


def test_dead_letters_go_where_those_of_the_requests_go() -> None:
    assert "bad" == dead_letters_topic(only("answer"), Task.ANSWER)
    assert "bad" == dead_letters_topic(only("classify"), Task.CLASSIFY)
    assert "dead-letters" == dead_letters_topic(only("classify"), Task.ANSWER)


def test_state_is_partitioned_like_what_it_is_made_of() -> None:
    check_counts({"documents": 4, "changelog": 4}, {"changelog": "documents"})
    with pytest.raises(ConfigError, match="changelog has 2 partitions and must have as many as documents"):
        check_counts({"documents": 4, "changelog": 2}, {"changelog": "documents"})


def test_observations_meet_in_one_partition() -> None:
    check_single({"observations": 1}, load_settings())
    with pytest.raises(ConfigError, match="observations has 4 partitions and must have 1"):
        check_single({"observations": 4}, load_settings())


def test_the_role_does_not_start_a_broker() -> None:
    with pytest.raises(ConfigError, match=r"kafka\.bootstrap_servers"):
        run_streams(load_settings(kafka={"bootstrap_servers": "embedded"}))


async def test_a_stop_that_takes_too_long_ends_the_process() -> None:
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    codes: list[int] = []

    def end(code: int) -> None:
        codes.append(code)
        loop.call_soon_threadsafe(ended.set)

    stop = StopRequest(timeout=0.0, exit_process=end)
    stop.make()
    await stop.wait()
    await ended.wait()

    assert [EXIT_HARD_STOP] == codes
