"""No secret is shown: whatever is printed, logged or raised, and whatever goes wrong."""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from stream_infer.cli import app
from stream_infer.config_loading import SECRETS, load_settings
from stream_infer.config_showing import HIDDEN
from stream_infer.errors import ConfigError

MARKER = "the-marker-of-a-secret"
NAMES = [".".join(secret) for secret in SECRETS]
NOBODY = "127.0.0.1:1"

Run = Callable[..., str]


def variable(*keys: str) -> str:
    return "__".join(("STREAM_INFER", *keys)).upper()


@pytest.fixture(autouse=True)
def marked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every secret is the marker, in the environment."""
    for section, key in SECRETS:
        monkeypatch.setenv(variable(section, key), MARKER)
    monkeypatch.setenv(variable("kafka", "bootstrap_servers"), NOBODY)


def run(*command: str) -> str:
    """Return all that a command said."""
    result = CliRunner().invoke(app, command)
    assert not isinstance(result.exception, (AssertionError, TypeError)), result.exception
    return f"{result.output}{result.stderr}{result.exception!r}"


def test_every_secret_is_known() -> None:
    assert ["kafka.sasl_password", "kafka.sasl_oauth_client_secret", "web.token"] == NAMES


def test_settings_do_not_show_them() -> None:
    settings = load_settings()

    shown = f"{settings!r} {settings} {settings.model_dump()} {settings.model_dump_json()}"

    assert MARKER not in shown
    assert 3 <= shown.count(HIDDEN)


def test_config_show_hides_them_and_says_where_they_come_from(tmp_path: Path) -> None:
    path = tmp_path / "settings.toml"
    path.write_text('[service]\ngroup = "mine"\n[traces]\nendpoint = "https://me:pass-word@collector/v1"\n')

    said = run("config", "show", "--config", str(path))

    shown = tomllib.loads(said.removesuffix("None"))
    assert MARKER not in said
    assert "pass-word" not in said
    assert [HIDDEN] * len(SECRETS) == [shown[section][key] for section, key in SECRETS]
    assert "mine" == shown["service"]["group"]
    assert f"https://{HIDDEN}@collector/v1" == shown["traces"]["endpoint"]
    assert f"# File: {path}" in said
    for section, key in SECRETS:
        assert f"# {section}.{key} is set by {variable(section, key)}" in said


def test_what_config_show_prints_are_settings_but_for_the_secrets(tmp_path: Path) -> None:
    path = tmp_path / "settings.toml"
    lines = run("config", "show").removesuffix("None").splitlines()
    path.write_text("\n".join(line for line in lines if HIDDEN not in line))

    assert load_settings() == load_settings(path)


@pytest.mark.parametrize("secret", SECRETS, ids=NAMES)
def test_a_file_that_holds_one_is_refused_without_showing_it(secret: tuple[str, str], tmp_path: Path) -> None:
    path = tmp_path / "settings.toml"
    for value in (f'"{MARKER}"', f'["{MARKER}"]', f'{{a = "{MARKER}"}}'):
        path.write_text(f"[{secret[0]}]\n{secret[1]} = {value}\n")
        with pytest.raises(ConfigError, match="secrets come from the environment") as raised:
            load_settings(path)
        assert MARKER not in str(raised.value)


@pytest.mark.parametrize(
    "name", ["KAFKA__SESSION_TIMEOUT_MS", "KAFKA__SECURITY_PROTOCOL", "WEB__PORT", "KAFKA__PASS"]
)
def test_bad_settings_beside_them_do_not_show_them(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"STREAM_INFER__{name}", MARKER)

    said = run("topics", "check")

    assert "fault(s)" in said
    assert MARKER not in said


@pytest.mark.parametrize(
    "command",
    [
        ("topics", "check"),
        ("topics", "apply"),
        ("streams",),
        ("serve",),
        ("send", "classify", "t"),
        ("dead-letters", "list"),
    ],
)
@pytest.mark.parametrize("mechanism", ["PLAIN", "SCRAM-SHA-512", "OAUTHBEARER"])
def test_a_broker_out_of_reach_does_not_show_them(
    command: tuple[str, ...],
    mechanism: str,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("stream_infer.service.broker.REACH_SECONDS", 0.3)
    monkeypatch.setattr("stream_infer.service.commands.REACH_SECONDS", 0.3)
    monkeypatch.setattr("stream_infer.service.dead_letters.REACH_SECONDS", 0.3)
    monkeypatch.setattr("stream_infer.streams.role.REACH_SECONDS", 0.3)
    is_oauth = mechanism == "OAUTHBEARER"
    given = {"security_protocol": "SASL_SSL", "sasl_mechanism": mechanism}
    if is_oauth:
        given |= {"sasl_oauth_token_url": f"http://{NOBODY}/token", "sasl_oauth_client_id": "me"}
    else:
        given["sasl_username"] = "me"
    monkeypatch.delenv(variable("kafka", "sasl_password" if is_oauth else "sasl_oauth_client_secret"))
    for key, value in given.items():
        monkeypatch.setenv(variable("kafka", key), value)

    said = run(*command)
    said += "".join(capfd.readouterr())

    assert NOBODY in said
    assert MARKER not in said
