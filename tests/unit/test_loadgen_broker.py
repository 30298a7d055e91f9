"""Options become aiokafka's arguments; what is missing, unused or unreadable is named; no secret is shown."""

from __future__ import annotations

import json
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from loadgen.__main__ import main
from loadgen.broker import SECRETS, Broker, secured
from loadgen.options import broker_of, make_parser
from stream_infer.bus.security import Security, SecurityError

PASSWORD_VARIABLE = SECRETS["sasl_password"]
ENVIRONMENT = {PASSWORD_VARIABLE: "secret"}


def parsed(*arguments: str) -> Broker:
    """Return the broker that a command line reaches."""

    def unused(_: object) -> int:
        return 0

    commands = dict.fromkeys(("run", "audit", "report", "search"), unused)
    return broker_of(make_parser("", **commands).parse_args(arguments))


@pytest.mark.parametrize("command", ["run", "search", "audit"])
def test_every_command_that_reaches_a_broker_takes_the_options(
    command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(PASSWORD_VARIABLE, "secret")
    options = ("--security-protocol", "SASL_SSL", "--sasl-mechanism", "PLAIN", "--sasl-username", "me")

    arguments = parsed(command, "--bootstrap-servers", "a:1,b:2", *options).arguments

    assert ("a:1,b:2", "SASL_SSL") == (arguments["bootstrap_servers"], arguments["security_protocol"])
    assert ("PLAIN", "me", "secret") == (
        arguments["sasl_mechanism"],
        arguments["sasl_plain_username"],
        arguments["sasl_plain_password"],
    )
    assert isinstance(arguments["ssl_context"], ssl.SSLContext)
    assert ssl.CERT_REQUIRED is arguments["ssl_context"].verify_mode
    assert arguments["ssl_context"].check_hostname


def test_a_plain_broker_needs_only_servers() -> None:
    expected = {"bootstrap_servers": "localhost:9092", "security_protocol": "PLAINTEXT"}

    assert expected == parsed("run").arguments
    assert expected == Broker("localhost:9092").arguments


def test_a_password_file_goes_before_the_environment(tmp_path: Path) -> None:
    (tmp_path / "password").write_text("from the file\n")
    security = Security("SASL_PLAINTEXT", sasl_username="me", sasl_password_file=tmp_path / "password")

    broker = secured("a:1", security, ENVIRONMENT)

    assert "from the file" == broker.arguments["sasl_plain_password"]
    assert "ssl_context" not in broker.arguments
    assert "from the file" not in repr(broker)


def test_certificates_go_to_the_context(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = [tmp_path / name for name in ("ca", "cert", "key")]
    for file in files:
        file.touch()
    calls: list[Any] = []

    class Context:
        load_cert_chain: Callable[..., None] = staticmethod(lambda *given, **_: calls.append(given))

    def create(*, cafile: Path) -> Context:
        calls.append(cafile)
        return Context()

    monkeypatch.setattr(ssl, "create_default_context", create)
    security = Security("SSL", ssl_ca_file=files[0], ssl_cert_file=files[1], ssl_key_file=files[2])

    assert isinstance(secured("a:1", security, {}).arguments["ssl_context"], Context)
    assert [files[0], (files[1], files[2])] == calls


@pytest.mark.parametrize("security", [Security("SASL_SSL"), Security("SASL_SSL", sasl_username="me")])
def test_missing_credentials_are_named(security: Security) -> None:
    with pytest.raises(SecurityError, match=rf"--sasl-username.*{PASSWORD_VARIABLE}"):
        secured("a:1", security, {} if security.sasl_username else ENVIRONMENT)


@pytest.mark.parametrize(
    ("protocol", "option"),
    [
        ("PLAINTEXT", "--ssl-ca-file"),
        ("SASL_PLAINTEXT", "--ssl-cert-file"),
        ("PLAINTEXT", "--sasl-username"),
        ("SSL", "--sasl-password-file"),
    ],
)
def test_what_the_protocol_would_pass_over_is_refused(
    protocol: str, option: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Who gives a certificate must not send in plain text."""
    given = tmp_path / "given"
    given.touch()

    assert 2 == main(["audit", "--security-protocol", protocol, option, str(given)])
    assert f"{protocol} has no use for {option}" in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--ssl-ca-file", "--ssl-cert-file", "--ssl-key-file"])
@pytest.mark.parametrize("command", ["run", "search", "audit"])
def test_missing_files_are_named(
    command: str, option: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    missing = str(tmp_path / "missing")

    assert 2 == main([command, "--security-protocol", "SSL", option, missing])
    assert f"{option}: {missing} cannot be read: No such file" in capsys.readouterr().err


def test_a_missing_password_file_is_named(tmp_path: Path) -> None:
    security = Security("SASL_PLAINTEXT", sasl_username="me", sasl_password_file=tmp_path / "missing")

    with pytest.raises(SecurityError, match=r"--sasl-password-file: .*missing cannot be read"):
        secured("a:1", security, {})


def test_an_unusable_certificate_is_named(tmp_path: Path) -> None:
    (tmp_path / "ca").write_text("no certificate")

    with pytest.raises(SecurityError, match="not a usable certificate"):
        secured("a:1", Security("SSL", ssl_ca_file=tmp_path / "ca"), {})


def test_a_key_without_its_certificate_is_refused(tmp_path: Path) -> None:
    (tmp_path / "key").touch()

    with pytest.raises(SecurityError, match="--ssl-cert-file"):
        secured("a:1", Security("SSL", ssl_key_file=tmp_path / "key"), {})


def test_no_secret_is_shown() -> None:
    broker = secured("a:1", Security("SASL_PLAINTEXT", sasl_username="me"), ENVIRONMENT)

    assert "secret" in json.dumps(broker.arguments)
    assert "secret" not in repr(broker)
