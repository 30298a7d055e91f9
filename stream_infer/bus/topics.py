"""The topics that the service needs: declared in TOML, created where missing, compared where not."""

from __future__ import annotations

import asyncio
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Annotated, Any, Literal

import structlog
from aiokafka.admin import NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import (
    ClusterAuthorizationFailedError,
    TopicAlreadyExistsError,
    TopicAuthorizationFailedError,
    for_code,
)
from aiokafka.protocol.metadata import MetadataRequest
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from stream_infer.bus.connection import REACH_BACKOFF, Connection, open_admin
from stream_infer.config import Settings, TopicName
from stream_infer.errors import AccessRefusedError, BusError, ConfigError
from stream_infer.schemas import Task

MAX_REPLICAS = 3
LISTED_SECONDS = 30.0
REPLICAS_SETTING = "default.replication.factor"
CHANGELOG = "{application}-{table}-changelog"
"""How Faust names the topic that it keeps a table in."""
DECLARED_APPLICATION = "stream-infer-streams"
"""The application that the side streams' changelogs are declared for."""


log = structlog.get_logger(__name__)


class _Declared(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class FieldSpec(_Declared):
    """One field of a topic's bodies, in the words of JSON Schema."""

    type: Literal["string", "number", "integer", "boolean", "array", "object"]
    description: str
    required: bool = False
    nullable: bool = False
    encoding: str | None = None
    items: dict[str, Any] | None = None
    values: dict[str, Any] | None = None


class TopicSpec(_Declared):
    """One topic, as its file declares it."""

    name: TopicName
    description: str
    direction: Literal["receive", "send", "internal"]
    partitions: Annotated[int, Field(gt=0)]
    cleanup_policy: Literal["delete", "compact"] = "delete"
    retention_ms: Annotated[int, Field(ge=-1)] = 604_800_000
    max_message_bytes: Annotated[int, Field(gt=0)] = 1_048_588
    key: str
    headers: dict[str, str] = Field(default_factory=dict)
    body: dict[str, FieldSpec] = Field(default_factory=dict)

    @property
    def configs(self) -> dict[str, str]:
        """The broker's settings for the topic; a compacted one keeps the last value of a key for ever."""
        settings = {"cleanup.policy": self.cleanup_policy, "max.message.bytes": str(self.max_message_bytes)}
        return (
            settings
            if self.cleanup_policy == "compact"
            else settings | {"retention.ms": str(self.retention_ms)}
        )


@dataclass(frozen=True, slots=True)
class Difference:
    """What of a topic is not as declared; `actual` is None where the topic is missing."""

    topic: str
    setting: str
    expected: str
    actual: str | None

    def __str__(self) -> str:
        if self.actual is None:
            return f"{self.topic}: missing"
        return f"{self.topic}: {self.setting} is {self.actual}, declared is {self.expected}"


def load_specs() -> list[TopicSpec]:
    """Return the declared topics, by name: the package's own, or the repository's in a checkout.

    Raises:
        ConfigError: a file is not a valid declaration; it is named.
    """
    texts = {
        path.name: path.read_text("utf-8") for path in _directory().iterdir() if path.name.endswith(".toml")
    }
    return [_parse(name, text) for name, text in sorted(texts.items())]


def specs_for(settings: Settings) -> list[TopicSpec]:
    """Return the topics that a service of these settings uses, under the names it uses."""
    return _named(_worker_names(settings) | _document_names(settings) | _label_names(settings))


def worker_specs_for(settings: Settings) -> list[TopicSpec]:
    """Return those of `specs_for` without which no worker starts: all but the side streams' own."""
    return _named(_worker_names(settings))


def _named(names: Mapping[str, str]) -> list[TopicSpec]:
    """Return topics by name, each as the topic that its name maps to is declared."""
    declared = {spec.name: spec for spec in load_specs()}
    return [declared[model].model_copy(update={"name": name}) for name, model in sorted(names.items())]


def _worker_names(settings: Settings) -> dict[str, str]:
    names: dict[str, str] = {}
    for stream in settings.streams.values():
        names |= {stream.input: f"requests.{stream.task}", stream.output: f"results.{stream.task}"}
        names[stream.dead_letters] = "dead-letters"
        if stream.task is Task.ANSWER:
            names[settings.retrieval.passages] = "passages"
    if settings.cache.shared:
        names[settings.cache.topic] = "embeddings"
    return names


def _document_names(settings: Settings) -> dict[str, str]:
    if all(stream.task is not Task.ANSWER for stream in settings.streams.values()):
        return {}
    return {settings.retrieval.documents: "documents", **_changelog_names(settings, "passage-counts")}


def _label_names(settings: Settings) -> dict[str, str]:
    if all(stream.task is not Task.CLASSIFY for stream in settings.streams.values()):
        return {}
    side_streams = settings.side_streams
    return {
        side_streams.feedback: "feedback",
        side_streams.observations: "observations",
        side_streams.trends: "trends",
        side_streams.quality: "quality",
        **_changelog_names(settings, "trend-windows"),
        **_changelog_names(settings, "quality-statements"),
    }


def _changelog_names(settings: Settings, table: str) -> dict[str, str]:
    name = CHANGELOG.format(application=settings.side_streams.application, table=table)
    return {name: CHANGELOG.format(application=DECLARED_APPLICATION, table=table)}


async def apply(connection: Connection, specs: Sequence[TopicSpec]) -> list[str]:
    """Create the topics that are missing and return their names; existing ones are left as they are.

    Raises:
        BusError: the broker is out of reach or refuses.
    """
    async with open_admin(connection) as admin:
        existing = set(await admin.list_topics())
        missing = [spec for spec in specs if spec.name not in existing]
        await _refuse_hidden(admin, [spec.name for spec in missing])
        if missing:
            await _create(admin, missing, await _replicas(admin))
            await _wait_until_listed(admin, {spec.name for spec in missing})
    return [spec.name for spec in missing]


async def check(connection: Connection, specs: Sequence[TopicSpec]) -> list[Difference]:
    """Return in what the broker's topics differ from the declared ones; more partitions are no difference.

    Raises:
        AccessRefusedError: some are hidden from this client: whether they are missing is not to be seen.
        BusError: the broker is out of reach or refuses.
    """
    async with open_admin(connection) as admin:
        existing = set(await admin.list_topics())
        await _refuse_hidden(admin, [spec.name for spec in specs if spec.name not in existing])
        present = [spec for spec in specs if spec.name in existing]
        partitions = await _partition_counts(admin, [spec.name for spec in present])
        topics = [ConfigResource(ConfigResourceType.TOPIC, spec.name) for spec in present]
        configs = await _configs(admin, topics)
    return [
        difference
        for spec in specs
        for difference in (
            _differences(spec, partitions[spec.name], configs[spec.name])
            if spec.name in existing
            else [Difference(spec.name, "topic", "present", None)]
        )
    ]


async def require(connection: Connection, names: Iterable[str]) -> None:
    """Check that the topics exist: some brokers would make them up, with one partition each.

    Raises:
        ConfigError: some do not; they are named.
        BusError: the broker is out of reach or refuses.
    """
    async with open_admin(connection) as admin:
        missing = sorted(set(names) - set(await admin.list_topics()))
        await _refuse_hidden(admin, missing)
    if missing:
        raise ConfigError(f"no such topic: {', '.join(missing)}; `stream-infer topics apply` creates them")


async def _refuse_hidden(admin: Any, missing: Sequence[str]) -> None:
    """Raise AccessRefusedError if topics that are not listed are only hidden from this client."""
    if not missing:
        return
    asked = await admin._send_request(MetadataRequest(list(missing), allow_auto_topic_creation=False))  # noqa: SLF001 - the public way would create them
    codes = {topic["topic"]: topic["error_code"] for topic in asked.to_object()["topics"]}
    hidden = sorted(name for name, code in codes.items() if code == TopicAuthorizationFailedError.errno)
    if hidden:
        raise AccessRefusedError(
            f"no access to topic {', '.join(hidden)}: each needs an access-control entry for what is done "
            "with it (deploy/acls.yaml), and may not even exist"
        )


async def partition_counts(connection: Connection, names: Sequence[str]) -> dict[str, int]:
    """Return how many partitions each of these topics has.

    Raises:
        ConfigError: some do not exist; they are named.
        BusError: the broker is out of reach or refuses.
    """
    await require(connection, names)
    async with open_admin(connection) as admin:
        return await _partition_counts(admin, names)


async def existing_partition_counts(connection: Connection, names: Iterable[str]) -> dict[str, int]:
    """Return how many partitions each of these topics has, passing over those that do not exist.

    Raises:
        BusError: the broker is out of reach or refuses.
    """
    async with open_admin(connection) as admin:
        return await _partition_counts(admin, sorted(set(names) & set(await admin.list_topics())))


async def _create(admin: Any, specs: Sequence[TopicSpec], replicas: int) -> None:
    topics = [NewTopic(spec.name, spec.partitions, replicas, topic_configs=spec.configs) for spec in specs]
    response = await admin.create_topics(topics)
    for name, code, *message in response.topic_errors:
        kind = for_code(code)
        if code and kind is not TopicAlreadyExistsError:
            raise kind(f"{name}: {message[0] if message else ''}")


async def _wait_until_listed(admin: Any, names: set[str]) -> None:
    """Return once the broker that is asked knows the topics, which is a little after they were created."""
    try:
        async with asyncio.timeout(LISTED_SECONDS):
            while names - set(await admin.list_topics()):  # noqa: ASYNC110 - a broker sets no event
                await asyncio.sleep(REACH_BACKOFF)
    except TimeoutError:
        raise BusError(
            f"created but not listed after {LISTED_SECONDS:g} s: {', '.join(sorted(names))}"
        ) from None


async def _replicas(admin: Any) -> int:
    """Return the broker's own default, which this version of the protocol cannot ask it to apply."""
    brokers = [broker["node_id"] for broker in (await admin.describe_cluster())["brokers"]]
    asked = ConfigResource(ConfigResourceType.BROKER, str(brokers[0]), {REPLICAS_SETTING: ""})
    try:
        configs = await _configs(admin, [asked])
    except ClusterAuthorizationFailedError:
        log.warning("replication_default_unknown", needed="DescribeConfigs on the cluster")
        configs = {}
    default = next(iter(configs.values()), {}).get(REPLICAS_SETTING)
    return int(default) if default else min(MAX_REPLICAS, len(brokers))


async def _partition_counts(admin: Any, names: Sequence[str]) -> dict[str, int]:
    described = await admin.describe_topics(list(names)) if names else []
    return {topic["topic"]: len(topic["partitions"]) for topic in described}


async def _configs(admin: Any, asked: list[ConfigResource]) -> dict[str, dict[str, str]]:
    responses = await admin.describe_configs(asked) if asked else []
    resources = [resource for response in responses for resource in response.resources]
    for code, message, _kind, name, _entries in resources:
        if code:
            raise for_code(code)(f"the configuration of {name}: {message}")
    return {name: {entry[0]: entry[1] for entry in entries} for *_, name, entries in resources}


def _differences(spec: TopicSpec, partitions: int, configs: dict[str, str]) -> Iterable[Difference]:
    if partitions < spec.partitions:
        yield Difference(spec.name, "partitions", str(spec.partitions), str(partitions))
    for setting, expected in spec.configs.items():
        actual = configs.get(setting, "unset")
        if actual != expected:
            yield Difference(spec.name, setting, expected, actual)


def _directory() -> Traversable:
    packaged = files("stream_infer") / "topics"
    return packaged if packaged.is_dir() else Path(__file__).parents[2] / "topics"


def _parse(name: str, text: str) -> TopicSpec:
    try:
        return TopicSpec(**tomllib.loads(text))
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{name}: not valid TOML: {error}") from error
    except ValidationError as error:
        faults = "; ".join(f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in error.errors())
        raise ConfigError(f"{name}: {faults}") from error
