import asyncio
import ssl
from types import SimpleNamespace
from typing import Any

import faust
import pytest

from stream_infer.bus.connection import connect
from stream_infer.bus.topics import specs_for
from stream_infer.config import Settings, load_settings
from stream_infer.errors import ConfigError
from stream_infer.schemas import Record
from stream_infer.streams.app import StreamsApp, credentials, to_record
from stream_infer.streams.needs import changelog_topic, check_counts, dead_letters_topic
from stream_infer.streams.role import EXIT_HARD_STOP, StopRequest, run_streams


def make_app(settings: Settings) -> StreamsApp:
    unused: Any = None
    return StreamsApp(settings, connect(settings.kafka), unused, unused, "unused")


async def test_faust_gives_the_changelog_the_name_that_is_checked_and_declared() -> None:
    settings = load_settings(side_streams={"application": "other"})

    app = make_app(settings)

    assert "other-passage-counts-changelog" == changelog_topic(settings)
    assert {changelog_topic(settings)} == app.faust.tables.changelog_topics
    assert changelog_topic(settings) in {spec.name for spec in specs_for(settings)}


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


def test_dead_letters_go_where_those_of_questions_go() -> None:
    answer = {"task": "answer", "input": "in", "output": "out", "dead_letters": "bad", "model": "encoder"}

    assert "bad" == dead_letters_topic(load_settings(streams={"questions": answer}))
    assert "dead-letters" == dead_letters_topic(load_settings())


def test_state_is_partitioned_like_the_documents() -> None:
    check_counts({"documents": 4, "changelog": 4}, "documents", "changelog")
    with pytest.raises(ConfigError, match="changelog has 2 partitions and must have as many as documents"):
        check_counts({"documents": 4, "changelog": 2}, "documents", "changelog")


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
