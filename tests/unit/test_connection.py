"""Settings become aiokafka's arguments; secrets and certificates are read, faults named."""

import ssl
from pathlib import Path

import pytest

from stream_infer.bus.connection import connect
from stream_infer.config import KafkaSettings
from stream_infer.errors import ConfigError


def test_plain_settings_need_only_servers() -> None:
    connection = connect(KafkaSettings(bootstrap_servers="a:1,b:2"))

    assert {"bootstrap_servers": "a:1,b:2", "security_protocol": "PLAINTEXT"} == connection.arguments
    assert "a:1,b:2" == connection.bootstrap_servers


def test_an_embedded_brokers_address_stands_in() -> None:
    assert (
        "127.0.0.1:1" == connect(KafkaSettings(bootstrap_servers="embedded"), "127.0.0.1:1").bootstrap_servers
    )


@pytest.mark.parametrize("source", ["setting", "file"])
def test_the_password_comes_from_the_environment_or_a_file(source: str, tmp_path: Path) -> None:
    (tmp_path / "password").write_text("secret\n")
    given = (
        {"sasl_password": "secret"} if source == "setting" else {"sasl_password_file": tmp_path / "password"}
    )
    settings = KafkaSettings(security_protocol="SASL_SSL", sasl_username="me", **given)

    arguments = connect(settings).arguments

    assert ("SCRAM-SHA-512", "me", "secret") == (
        arguments["sasl_mechanism"],
        arguments["sasl_plain_username"],
        arguments["sasl_plain_password"],
    )
    assert isinstance(arguments["ssl_context"], ssl.SSLContext)
    assert "secret" not in repr(settings)


def test_missing_credentials_are_named() -> None:
    with pytest.raises(ConfigError, match=r"kafka\.sasl_username and kafka\.sasl_password"):
        connect(KafkaSettings(security_protocol="SASL_PLAINTEXT", sasl_username="me"))


@pytest.mark.parametrize("key", ["ssl_ca_file", "ssl_cert_file", "ssl_key_file"])
def test_missing_certificates_are_named(key: str, tmp_path: Path) -> None:
    settings = KafkaSettings.model_validate({"security_protocol": "SSL", key: tmp_path / "missing"})

    with pytest.raises(ConfigError, match=rf"kafka\.{key}: .*missing cannot be read: No such file"):
        connect(settings)


def test_an_unusable_certificate_is_named(tmp_path: Path) -> None:
    (tmp_path / "ca").write_text("no certificate")

    with pytest.raises(ConfigError, match=r"kafka\.ssl_"):
        connect(KafkaSettings(security_protocol="SSL", ssl_ca_file=tmp_path / "ca"))


def test_a_missing_password_file_is_named(tmp_path: Path) -> None:
    settings = KafkaSettings(
        security_protocol="SASL_PLAINTEXT", sasl_username="me", sasl_password_file=tmp_path / "missing"
    )

    with pytest.raises(ConfigError, match=r"kafka\.sasl_password_file"):
        connect(settings)
