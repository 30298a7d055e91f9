"""A secured Apache Kafka is reached in each way, and whatever stands in the way is said at once."""

from __future__ import annotations

import asyncio
import os
import re
import sys
import time
import uuid
from http import HTTPStatus
from pathlib import Path
from typing import Any

import pytest

from loadgen.kafka.security import EXPIRED, MUTUAL, PASSWORD, SECURED, USER, Authority, BrokerSecurity
from stream_infer.bus.batches import OutRecord
from stream_infer.bus.connection import connect, wait_until_reachable
from stream_infer.bus.publisher import Publisher
from stream_infer.bus.topics import TopicSpec, apply
from stream_infer.client import Client
from stream_infer.config import StreamSettings
from stream_infer.errors import BusError
from stream_infer.schemas import Task
from tests.broker.lanes import requests, texts
from tests.broker.probes import read_committed
from tests.broker.secured_broker import CLIENT_SECRET, SecuredBroker, toml
from tests.broker.service_process import REPOSITORY, SCORING_STREAM, ServiceProcess
from tests.broker.streams_process import SETTINGS, StreamsProcess, running

WAYS = ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER", "mTLS")
GUESSED = "guessed"
QUICK_SECONDS = 5.0
FAR_SECONDS = 60.0


async def refusal(settings: Any) -> str:
    """Return what is said of a broker that will not be reached, which must not take long."""
    started = time.monotonic()
    with pytest.raises(BusError) as raised:
        await wait_until_reachable(connect(settings), FAR_SECONDS)
    assert time.monotonic() - started < QUICK_SECONDS
    return str(raised.value)


async def topic_on(secured: SecuredBroker, partitions: int = 1) -> str:
    """Return a topic of its own, made by one who may."""
    name = f"topic-{uuid.uuid4().hex[:8]}"
    spec = TopicSpec(name=name, description="", direction="internal", partitions=partitions, key="")
    await apply(connect(secured.settings("SCRAM-SHA-512")), [spec])
    return name


async def run(*command: str, **environment: str) -> tuple[int, str]:
    """Return the exit code of a command, and all that it said."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", *command),
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), **environment},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    said, _ = await asyncio.wait_for(process.communicate(), FAR_SECONDS)
    return process.returncode or 0, said.decode()


@pytest.mark.parametrize("way", WAYS)
async def test_records_are_written_and_read(secured: SecuredBroker, way: str) -> None:
    connection = connect(secured.settings(way))
    await wait_until_reachable(connection, FAR_SECONDS)
    topic = await topic_on(secured)

    async with Publisher(connection) as publisher:
        await publisher.publish([OutRecord(topic, b"key", b"value")])

    assert [b"value"] == [record.value for record in await read_committed(connection, topic)]


@pytest.mark.parametrize("way", ["SCRAM-SHA-512", "OAUTHBEARER", "mTLS"])
async def test_a_worker_serves_and_a_client_asks(secured: SecuredBroker, way: str, tmp_path: Path) -> None:
    names = {name: await topic_on(secured) for name in ("input", "output", "dead_letters")}
    kafka = toml({**secured.ways()[way], "session_timeout_ms": 6_000})
    stream = SCORING_STREAM.format(group=names["input"], bootstrap_servers="", **names)
    settings = re.sub(r"\[kafka\].*(?=\[cache\])", kafka, stream, flags=re.DOTALL)
    stream_settings = StreamSettings.model_validate({"task": Task.CLASSIFY, "model": "scorer", **names})

    async with (
        ServiceProcess(settings, tmp_path) as worker,
        Client(settings=secured.settings(way), streams={"score": stream_settings}) as client,
    ):
        result = await client.classify("text", timeout=FAR_SECONDS)
    said = worker.log_path.read_text()

    assert result.body["label"]
    assert not [secret for secret in (PASSWORD, CLIENT_SECRET) if secret in said]


@pytest.mark.parametrize("way", ["SCRAM-SHA-512", "mTLS"])
async def test_commands_send_and_put_back(secured: SecuredBroker, way: str, tmp_path: Path) -> None:
    """A dead letter without text too, whose record is read again."""
    names = {name: await topic_on(secured) for name in ("input", "output", "dead_letters")}
    kafka = toml({**secured.ways()[way], "session_timeout_ms": 6_000})
    stream = SCORING_STREAM.format(group=names["input"], bootstrap_servers="", **names)
    settings = re.sub(r"\[kafka\].*(?=\[cache\])", kafka, stream, flags=re.DOTALL)
    path = tmp_path / "commands.toml"
    path.write_text(f"{settings}\n[privacy]\nredact = true\n")

    async with ServiceProcess(path.read_text(), tmp_path):
        sent = await run("stream_infer", "send", "classify", "text", "--config", str(path))
        refused = await run("stream_infer", "send", "classify", "<raise>", "--config", str(path))
        put_back = await run("stream_infer", "dead-letters", "replay", "--yes", "--config", str(path))
        connection = connect(secured.settings("SCRAM-SHA-512"))
        async with asyncio.timeout(FAR_SECONDS):
            while len(letters := await read_committed(connection, names["dead_letters"])) < 2:  # noqa: ASYNC110 - a broker sets no event
                await asyncio.sleep(0.2)

    assert (0, True) == (sent[0], '"label": "even"' in sent[1]), sent
    assert (2, True) == (refused[0], "model_failed" in refused[1]), refused
    assert (0, True) == (put_back[0], put_back[1].endswith("put back: 1\n")), put_back
    assert [None, None] == [letter.value for letter in letters]
    assert not [
        secret for secret in (PASSWORD, CLIENT_SECRET) if secret in sent[1] + refused[1] + put_back[1]
    ]


@pytest.mark.parametrize("way", WAYS)
async def test_the_side_streams_turn_documents_into_passages(
    secured: SecuredBroker, way: str, tmp_path: Path
) -> None:
    class Role(StreamsProcess):
        settings = re.sub(
            r"bootstrap_servers = .*\n", toml(secured.ways()[way]).removeprefix("[kafka]\n"), SETTINGS
        )

    async with running(Role(connect(secured.settings(way)), tmp_path)) as role:
        await role.put(role.version("new", "A paragraph. " + "word " * 60))
        passages = await role.passages_until(lambda found: ("new", 0) in found)

    assert ("new", 0) in passages


@pytest.mark.parametrize("way", WAYS)
async def test_the_load_generator_loads_and_reads(secured: SecuredBroker, way: str) -> None:
    topics = [await topic_on(secured) for _ in range(2)]
    options = {f"--{name.replace('_', '-')}": value for name, value in secured.ways()[way].items()}
    places = ("--input", topics[0], "--output", topics[1])
    load = ("--rate", "1000", "--count", "5", "--patience", "0.2", "--audit")

    words = (word for option in options.items() for word in option)
    code, said = await run("loadgen", "run", *places, *load, *words)

    assert 1 == code, said
    assert '"acknowledged": 5' in said
    assert '"lost": 5' in said
    assert not [secret for secret in (PASSWORD, CLIENT_SECRET) if secret in said]


@pytest.mark.parametrize("way", ["SCRAM-SHA-256", "OAUTHBEARER", "mTLS"])
async def test_topics_are_compared(secured: SecuredBroker, way: str, tmp_path: Path) -> None:
    """The input is one that nobody has made, whatever other tests made on this broker."""
    stream = (
        '[streams.compared]\ntask = "classify"\ninput = "never-made"\noutput = "out"\nmodel = "sentiment"\n'
    )
    (tmp_path / "settings.toml").write_text(toml(secured.ways()[way]) + stream)

    code, said = await run("stream_infer", "topics", "check", "--config", str(tmp_path / "settings.toml"))

    assert (1, True) == (code, "never-made: missing" in said), said


@pytest.mark.parametrize("mechanism", ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"])
async def test_a_wrong_password_is_named(secured: SecuredBroker, mechanism: str) -> None:
    wrong = secured.settings(mechanism, sasl_password=GUESSED)

    said = await refusal(wrong)

    assert f"the broker does not know {USER}, or not by this secret" in said
    assert f"kafka.sasl_mechanism is {mechanism}" in said
    assert GUESSED not in said


async def test_a_wrong_client_secret_is_named(secured: SecuredBroker) -> None:
    said = await refusal(secured.settings("OAUTHBEARER", sasl_oauth_client_secret=GUESSED))

    assert f"no token for {USER} at {secured.issuer.url}: it answered 401: invalid_client" in said
    assert GUESSED not in said


@pytest.mark.parametrize("wrong", ["key", "lifetime"])
async def test_a_token_that_the_broker_does_not_take_is_named(
    secured: SecuredBroker, wrong: str, tmp_path: Path
) -> None:
    changes = {"signer": BrokerSecurity(tmp_path)} if wrong == "key" else {"lifetime": -120.0}

    with secured.issuer.giving(**changes):
        said = await refusal(secured.settings("OAUTHBEARER"))

    assert f"the broker does not know {USER}, or not by this secret: the token is refused" in said


async def test_a_token_endpoint_out_of_order_is_named(secured: SecuredBroker) -> None:
    with secured.issuer.giving(status=HTTPStatus.SERVICE_UNAVAILABLE), pytest.raises(BusError) as raised:
        await wait_until_reachable(connect(secured.settings("OAUTHBEARER")), 0.5)

    assert f"{secured.issuer.url}: it answered 503" in str(raised.value)


async def test_a_token_endpoint_that_is_not_trusted_is_named(secured: SecuredBroker) -> None:
    said = await refusal(secured.settings("OAUTHBEARER", sasl_oauth_ca_file=None))

    assert f"{secured.issuer.url}: its certificate is not trusted" in said


async def test_an_unknown_authority_is_named(secured: SecuredBroker, tmp_path: Path) -> None:
    other = Authority(tmp_path).ca_file

    said = await refusal(secured.settings("SCRAM-SHA-512", ssl_ca_file=other))

    assert "the broker's certificate is not trusted: " in said
    assert "kafka.ssl_ca_file" in said
    assert secured.kafka.servers(SECURED) in said


async def test_an_expired_certificate_is_named(secured: SecuredBroker) -> None:
    said = await refusal(secured.settings("mTLS", bootstrap_servers=secured.kafka.servers(EXPIRED)))

    assert "the broker's certificate has expired" in said


async def test_a_certificate_for_another_host_is_named(secured: SecuredBroker) -> None:
    servers = secured.kafka.servers(SECURED).replace("127.0.0.1", "localhost")

    said = await refusal(secured.settings("SCRAM-SHA-512", bootstrap_servers=servers))

    assert "the broker's certificate is for another host than localhost (kafka.bootstrap_servers)" in said


@pytest.mark.parametrize("shown", ["none", "expired", "of a stranger"])
async def test_who_shows_no_good_certificate_is_told(
    secured: SecuredBroker, shown: str, tmp_path: Path
) -> None:
    identities = {
        "expired": secured.security.authority.issue(USER, days=-1),
        "of a stranger": Authority(tmp_path).issue(USER),
    }
    own = identities.get(shown)
    files = {"ssl_cert_file": own and own.cert_file, "ssl_key_file": own and own.key_file}

    said = await refusal(secured.settings("mTLS", **files))

    assert "the broker asks for a certificate that it trusts, and got none or another" in said
    assert f"{secured.kafka.servers(MUTUAL)}: " in said
    assert "kafka.ssl_cert_file" in said


@pytest.mark.parametrize(
    ("listener", "protocol"), [(SECURED, "PLAINTEXT"), (SECURED, "SSL"), ("PLAINTEXT", "SSL")]
)
async def test_another_protocol_than_the_listeners_is_doubted(
    secured: SecuredBroker, listener: str, protocol: str
) -> None:
    ca = {"ssl_ca_file": secured.security.authority.ca_file} if protocol == "SSL" else {}
    given = {"bootstrap_servers": secured.kafka.servers(listener), "security_protocol": protocol, **ca}
    settings = type(secured.settings("mTLS")).model_validate(given)

    with pytest.raises(BusError, match=rf"is {protocol} what it speaks \(kafka.security_protocol\)"):
        await wait_until_reachable(connect(settings), 3.0)


async def test_a_worker_outlives_its_tokens(secured: SecuredBroker, tmp_path: Path) -> None:
    """The broker closes a connection whose token has run out; the next one brings a fresh token."""
    names = {name: await topic_on(secured) for name in ("input", "output", "dead_letters")}
    kafka = toml({**secured.ways()["OAUTHBEARER"], "session_timeout_ms": 6_000})
    stream = SCORING_STREAM.format(group=names["input"], bootstrap_servers="", **names)
    settings = re.sub(r"\[kafka\].*(?=\[cache\])", kafka, stream, flags=re.DOTALL)
    connection = connect(secured.settings("SCRAM-SHA-512"))
    before = len(secured.issuer.asked)

    with secured.issuer.giving(lifetime=3.0):
        async with ServiceProcess(settings, tmp_path), Publisher(connection) as publisher:
            for given in texts(8):
                await publisher.publish(requests(names["input"], [given]))
                await asyncio.sleep(1.0)
            async with asyncio.timeout(FAR_SECONDS):
                while len(found := await read_committed(connection, names["output"])) < 8:  # noqa: ASYNC110 - a broker sets no event
                    await asyncio.sleep(0.2)

    assert 8 == len(found)
    assert len(secured.issuer.asked) - before > 2
