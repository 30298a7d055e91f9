"""Each role does its work with exactly the access that deploy/acls.yaml gives it, and uses all of it."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest
import pytest_asyncio
import yaml
from confluent_kafka.admin import (  # type: ignore[attr-defined] # it names no exports
    AclBinding,
    AclOperation,
    AclPermissionType,
    AdminClient,
    ResourcePatternType,
    ResourceType,
)

from stream_infer.bus.batches import OutRecord
from stream_infer.bus.client_codec import encode_document
from stream_infer.bus.connection import connect
from stream_infer.bus.publisher import Publisher
from stream_infer.client import Client
from tests.broker.probes import read_committed
from tests.broker.secured_broker import SecuredBroker, toml
from tests.broker.service_process import REPOSITORY, ServiceProcess

ROLES: Final[dict[str, list[dict[str, Any]]]] = yaml.safe_load(
    (REPOSITORY / "deploy" / "acls.yaml").read_text(encoding="utf-8")
)
SETTINGS: Final = (REPOSITORY / "deploy" / "stream-infer.toml").read_text(encoding="utf-8")
REDACTED: Final = "\n[privacy]\nredact = true\n"
"""So that a replay has to read records again."""
TASKS: Final = ("classify", "translate", "answer")
PATIENCE: Final = 90.0
KINDS: Final = {
    "topic": ResourceType.TOPIC,
    "group": ResourceType.GROUP,
    "transactional-id": ResourceType.TRANSACTIONAL_ID,
    "cluster": ResourceType.BROKER,
}
_DECISION: Final = re.compile(
    r"Principal = User:(?P<user>\S+) is (?P<word>Allowed|Denied) operation = (?P<operation>\w+)"
    r".* on resource = (?P<kind>\w+):(?P<pattern>\w+):(?P<name>\S+) for request = (?P<request>\w+)"
)


@dataclass(frozen=True, slots=True)
class Entry:
    """One operation that is allowed on one resource."""

    kind: str
    name: str
    operation: str
    is_prefix: bool = False

    def binding(self, user: str) -> AclBinding:
        """Return it as the broker is told."""
        pattern = ResourcePatternType.PREFIXED if self.is_prefix else ResourcePatternType.LITERAL
        operation = re.sub(r"(?<!^)(?=[A-Z])", "_", self.operation).upper()
        return AclBinding(
            KINDS[self.kind],
            self.name,
            pattern,
            f"User:{user}",
            "*",
            AclOperation[operation],
            AclPermissionType.ALLOW,
        )

    def allows(self, decision: re.Match[str]) -> bool:
        """Return whether it is what a request was allowed by."""
        name = decision["name"]
        return (
            (self.kind.replace("-", ""), self.operation.lower())
            == (decision["kind"].lower(), decision["operation"].lower().replace("_", ""))
        ) and (name.startswith(self.name) if self.is_prefix else name == self.name)


def entries(role: str) -> Iterator[Entry]:
    """Yield the entries of a role."""
    for given in ROLES[role]:
        kind = next(kind for kind in KINDS if kind in given)
        names = given[kind] if isinstance(given[kind], list) else [given[kind]]
        for name in names:
            for operation in given["operations"]:
                yield Entry(kind, name, operation, is_prefix=given.get("prefixed", False))


class Site:
    """The broker with a user for each role, who may do what the file says."""

    def __init__(self, secured: SecuredBroker, directory: Path) -> None:
        self.secured = secured
        self._directory = directory
        self._admin = AdminClient({"bootstrap.servers": secured.kafka.bootstrap_servers})

    def grant(self, role: str) -> None:
        """Allow a role what it needs."""
        granted = self._admin.create_acls([entry.binding(role) for entry in entries(role)])
        for outcome in granted.values():
            outcome.result(PATIENCE)

    def settings(self, role: str) -> str:
        """Return the settings of deploy/ for a role that shows a certificate."""
        kafka = toml({**self.secured.ways(role)["mTLS"], "session_timeout_ms": 6_000})
        text = re.sub(r"\[kafka\].*?\n\n", kafka + REDACTED, SETTINGS, flags=re.DOTALL)
        return text.replace('host = "0.0.0.0"', 'host = "127.0.0.1"')

    def connection(self, role: str) -> Any:
        """Return how a role reaches the broker."""
        settings = self.secured.settings("mTLS", **self.secured.ways(role)["mTLS"])
        return connect(settings)

    async def run(self, role: str, *command: str) -> str:
        """Run a command of the service as a role, and return what it said."""
        path = self._directory / f"{role}.toml"
        path.write_text(self.settings(role), encoding="utf-8")
        return await run("stream_infer", *command, "--config", str(path))

    def decisions(self, role: str) -> list[re.Match[str]]:
        """Return what the broker allowed and denied a role so far."""
        log = (self.secured.directory / "broker.log").read_text(encoding="utf-8")
        return [found for found in _DECISION.finditer(log) if found["user"] == role]


async def run(*command: str) -> str:
    """Run a module to its good end, and return what it said."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", *command),
        cwd=REPOSITORY,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    said, _ = await asyncio.wait_for(process.communicate(), PATIENCE)
    assert 0 == process.returncode, said.decode()
    return said.decode()


@asynccontextmanager
async def side_streams(site: Site, directory: Path) -> AsyncIterator[Path]:
    """Run the streams role while the context lasts, and yield where its log is."""
    settings, log = directory / "side.toml", directory / "side.log"
    settings.write_text(site.settings("streams"), encoding="utf-8")
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "stream_infer", "streams", "--config", str(settings)),
            cwd=REPOSITORY,
            stdout=output,
            stderr=output,
        )
    try:
        yield log
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGTERM)
        await asyncio.wait_for(process.wait(), PATIENCE)


async def ask_everything(site: Site) -> None:
    """Do what clients do: documents, requests of each task, feedback, and a record that is no request."""
    async with Publisher(site.connection("documents")) as publisher:
        await publisher.publish([encode_document("documents", "kettle", "The kettle boils in two minutes.")])
    settings = site.connection("client").settings
    async with Client(settings=settings) as client:
        result = await client.classify("The parcel came early.", timeout=PATIENCE)
        await client.translate("Your changes have been saved.", target="pt", timeout=PATIENCE)
        context = "The kettle boils in two minutes."
        await client.answer("How long does the kettle take?", context=context, timeout=PATIENCE)
        await client.feedback(result.id, "positive")
    async with Publisher(site.connection("client")) as publisher:
        poison = [
            OutRecord(f"requests.{task}", b"k", b"\xc1") for task in ("classify", "translate", "answer")
        ]
        await publisher.publish([*poison, OutRecord("feedback", b"k", b"\xc1")])


async def until_written(site: Site, counts: dict[str, int]) -> None:
    """Return once each topic holds so many records."""
    everything = connect(site.secured.settings("SCRAM-SHA-512"))
    async with asyncio.timeout(PATIENCE):
        for topic, count in counts.items():
            while len(await read_committed(everything, topic)) < count:  # noqa: ASYNC110 - a broker sets no event
                await asyncio.sleep(0.2)


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def site(secured: SecuredBroker, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Site]:
    """A broker on which every role has done its work."""
    directory = tmp_path_factory.mktemp("acls")
    made = Site(secured, directory)
    for role in ROLES:
        made.grant(role)
    await made.run("topics", "topics", "apply")
    assert "as specified" in await made.run("topics", "topics", "check")
    worker = ServiceProcess(made.settings("worker"), directory)
    async with worker, side_streams(made, directory):
        await ask_everything(made)
        written = dict.fromkeys(("trends", "quality", "passages", "embeddings"), 1)
        await until_written(made, {**written, "dead-letters": len(TASKS) + 1})
        assert "malformed" in await made.run("dead-letters", "dead-letters", "list")
        for task in TASKS:
            await made.run("dead-letters", "dead-letters", "replay", "--yes", "--stream", task)
        options = made.secured.ways("loadgen")["mTLS"].items()
        words = [word for name, value in options for word in (f"--{name.replace('_', '-')}", value)]
        said = await run("loadgen", "run", "--rate", "20", "--count", "20", "--audit", *words)
        assert "clean" == json.loads(said.splitlines()[-1])["audit"]["verdict"], said
    yield made


@pytest.mark.parametrize("role", ROLES)
async def test_a_role_needs_no_more(site: Site, role: str) -> None:
    denied = {decision.group() for decision in site.decisions(role) if decision["word"] == "Denied"}

    assert site.decisions(role)
    assert not {text for text in denied if role != "worker" or "DESCRIBE_CONFIGS" not in text}


@pytest.mark.parametrize("role", ROLES)
async def test_a_role_uses_all_of_it(site: Site, role: str) -> None:
    allowed = [decision for decision in site.decisions(role) if decision["word"] == "Allowed"]

    unused = [entry for entry in entries(role) if not any(map(entry.allows, allowed))]

    assert [] == unused
