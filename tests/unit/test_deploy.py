"""What deploys the service refers to files, settings, commands and topics that exist."""

import re
from pathlib import Path
from typing import Any

import pytest
import typer.main
import yaml

from stream_infer.bus.replays import ledger_of
from stream_infer.bus.topics import specs_for
from stream_infer.cli import app
from stream_infer.config_loading import load_settings
from stream_infer.service.replaying import GROUP

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
COMPOSE: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text(encoding="utf-8"))
SERVICES: dict[str, Any] = COMPOSE["services"]
ROLES = {name: service for name, service in SERVICES.items() if service["image"] == "stream-infer"}
DOCKERFILE = (DEPLOY / "Dockerfile").read_text(encoding="utf-8")
SETTINGS = load_settings(DEPLOY / "stream-infer.toml")


def seconds(text: str) -> float:
    return float(text.removesuffix("s"))


def instruction(name: str) -> list[str]:
    """Return the arguments of each instruction of this name, options left out."""
    lines = re.findall(rf"^{name} (.*)$", DOCKERFILE, re.MULTILINE)
    return [" ".join(word for word in line.split() if not word.startswith("--")) for line in lines]


def test_the_image_copies_what_exists() -> None:
    own = [line for line in re.findall(r"^COPY (.*)$", DOCKERFILE, re.MULTILINE) if "--from" not in line]

    sources = [source for line in own for source in line.split()[:-1]]

    assert {"pyproject.toml", "README.md", "LICENSE", "stream_infer", "topics"} <= set(sources)
    assert all((ROOT / source).exists() for source in sources)


def test_the_build_sees_what_the_image_copies() -> None:
    lines = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    sent = {line.removeprefix("!") for line in lines if line.startswith("!")}

    assert "*" == lines[0]
    assert sent == {source for line in instruction("COPY") for source in line.split()[:-1]} - {
        "/opt/stream-infer"
    }


def test_the_image_does_not_run_as_root() -> None:
    assert ["stream-infer"] == instruction("USER")


def test_the_image_finds_its_settings() -> None:
    path = re.search(r"STREAM_INFER_CONFIG=(\S+)", DOCKERFILE)
    assert path is not None
    assert f"deploy/stream-infer.toml {path[1]}" in instruction("COPY")
    for role in ROLES.values():
        assert [f"./stream-infer.toml:{path[1]}:ro"] == role["volumes"]


@pytest.mark.parametrize("name", ROLES)
def test_roles_run_commands_that_exist(name: str) -> None:
    command: Any = typer.main.get_command(app)
    for word in ROLES[name]["command"]:
        command = command.commands[word]
    assert callable(command.callback)


def test_both_roles_and_the_topics_are_there() -> None:
    assert {"topics", "worker", "streams"} == set(ROLES)
    assert all(
        (DEPLOY / role["build"]["context"] / role["build"]["dockerfile"]).is_file() for role in ROLES.values()
    )


@pytest.mark.parametrize("name", ROLES)
def test_roles_wait_for_services_that_exist(name: str) -> None:
    for other, how in ROLES[name]["depends_on"].items():
        assert "healthcheck" in SERVICES[other] or how["condition"] == "service_completed_successfully"


def test_the_broker_listens_where_the_settings_look() -> None:
    environment = SERVICES["kafka"]["environment"]
    advertised = dict(item.split("://") for item in environment["KAFKA_ADVERTISED_LISTENERS"].split(","))
    listening = dict(item.split("://") for item in environment["KAFKA_LISTENERS"].split(","))
    protocols = dict(
        item.split(":") for item in environment["KAFKA_LISTENER_SECURITY_PROTOCOL_MAP"].split(",")
    )

    assert SETTINGS.kafka.bootstrap_servers == advertised["INSIDE"]
    assert SETTINGS.kafka.security_protocol == protocols["INSIDE"]
    assert listening.keys() == protocols.keys()
    assert [f"127.0.0.1{listening['HOST']}{listening['HOST']}"] == SERVICES["kafka"]["ports"]
    assert advertised["HOST"] == f"localhost{listening['HOST']}"


def test_sessions_are_allowed_to_be_as_short_as_set() -> None:
    least = int(SERVICES["kafka"]["environment"]["KAFKA_GROUP_MIN_SESSION_TIMEOUT_MS"])
    assert least <= SETTINGS.kafka.session_timeout_ms


def test_volumes_are_declared() -> None:
    named = {volume.split(":")[0] for service in SERVICES.values() for volume in service.get("volumes", [])}
    assert {name for name in named if not name.startswith(".")} == set(COMPOSE["volumes"])


def test_roles_have_the_time_that_they_take_to_stop() -> None:
    assert seconds(ROLES["worker"]["stop_grace_period"]) > SETTINGS.service.drain_timeout_ms / 1000
    assert seconds(ROLES["streams"]["stop_grace_period"]) > SETTINGS.side_streams.stop_timeout_ms / 1000


def test_the_worker_is_asked_for_its_health_where_it_answers() -> None:
    worker = ROLES["worker"]

    assert f"127.0.0.1:{SETTINGS.web.port}/health" in worker["healthcheck"]["test"][-1]
    assert all(
        port.startswith("127.0.0.1:") and port.endswith(f":{SETTINGS.web.port}") for port in worker["ports"]
    )
    assert [str(SETTINGS.web.port)] == instruction("EXPOSE")
    compile(worker["healthcheck"]["test"][-1], "healthcheck", "exec")


def test_access_is_listed_for_the_topics_and_groups_of_the_settings() -> None:
    roles: dict[str, Any] = yaml.safe_load((DEPLOY / "acls.yaml").read_text(encoding="utf-8"))
    entries = [entry for given in roles.values() for entry in given]
    topics = {name for each in entries if "topic" in each for name in names_of(each["topic"])}
    groups = {each["group"] for each in entries if "group" in each}
    declared = {spec.name for spec in specs_for(SETTINGS)}

    assert declared | {ledger_of("dead-letters").topic} == topics
    assert declared == {
        name for each in roles["topics"] if "topic" in each for name in names_of(each["topic"])
    }
    assert {SETTINGS.service.group, SETTINGS.side_streams.application, GROUP} == groups
    for each in entries:
        if "transactional-id" in each:
            assert each["transactional-id"].startswith((f"{SETTINGS.service.group}.", f"{GROUP}."))


def names_of(given: str | list[str]) -> list[str]:
    return given if isinstance(given, list) else [given]


def test_the_example_settings_embed_documents_and_questions_alike() -> None:
    assert SETTINGS.side_streams.model == SETTINGS.streams["answer"].model
