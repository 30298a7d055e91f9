"""Settings become aiokafka's arguments; secrets and certificates are read, faults named."""

import ssl
from pathlib import Path

import pytest
from pydantic import SecretStr

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
    (tmp_path / "password").write_text("my own\n")
    given = (
        {"sasl_password": "my own"} if source == "setting" else {"sasl_password_file": tmp_path / "password"}
    )
    settings = KafkaSettings(security_protocol="SASL_SSL", sasl_username="me", **given)

    arguments = connect(settings).arguments

    assert ("SCRAM-SHA-512", "me", "my own") == (
        arguments["sasl_mechanism"],
        arguments["sasl_plain_username"],
        arguments["sasl_plain_password"],
    )
    assert isinstance(arguments["ssl_context"], ssl.SSLContext)
    assert "my own" not in repr(settings)


def test_missing_credentials_are_named() -> None:
    with pytest.raises(ConfigError, match=r"kafka\.sasl_username, and the password in kafka\.sasl_password"):
        connect(KafkaSettings(security_protocol="SASL_PLAINTEXT", sasl_username="me"))


def test_a_password_goes_before_its_file_which_need_not_be_there(tmp_path: Path) -> None:
    settings = KafkaSettings(
        security_protocol="SASL_SSL",
        sasl_username="me",
        sasl_password=SecretStr("secret"),
        sasl_password_file=tmp_path / "missing",
    )

    assert "secret" == connect(settings).arguments["sasl_plain_password"]


@pytest.mark.parametrize(
    ("given", "fault"),
    [
        ({"sasl_username": "me"}, r"kafka\.security_protocol: PLAINTEXT has no use for kafka\.sasl_username"),
        ({"ssl_ca_file": __file__}, r"kafka\.security_protocol: PLAINTEXT has no use for kafka\.ssl_ca_file"),
        (
            {"security_protocol": "SASL_SSL", "sasl_mechanism": "OAUTHBEARER", "sasl_username": "me"},
            r"kafka\.sasl_mechanism: OAUTHBEARER has no use for kafka\.sasl_username",
        ),
        (
            {"security_protocol": "SASL_SSL", "sasl_oauth_client_id": "me"},
            r"kafka\.sasl_mechanism: SCRAM-SHA-512 has no use for kafka\.sasl_oauth_client_id",
        ),
    ],
)
def test_what_would_be_passed_over_is_refused(given: dict[str, str], fault: str) -> None:
    """Who gives a password or a certificate must not send in plain text."""
    with pytest.raises(ConfigError, match=fault):
        connect(KafkaSettings.model_validate(given))


def oauth(**given: object) -> KafkaSettings:
    """Return settings for OAUTHBEARER, some of them others."""
    settings = {
        "security_protocol": "SASL_SSL",
        "sasl_mechanism": "OAUTHBEARER",
        "sasl_oauth_token_url": "https://idp.example/token",
        "sasl_oauth_client_id": "me",
        "sasl_oauth_client_secret": "secret",
    }
    return KafkaSettings.model_validate(settings | given)


def test_client_credentials_become_a_provider_of_tokens(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("of the file\n")
    of_file = oauth(sasl_oauth_client_secret=None, sasl_oauth_client_secret_file=tmp_path / "secret")

    endpoints = [
        connect(each).arguments["sasl_oauth_token_provider"].endpoint
        for each in (oauth(sasl_oauth_scope="kafka"), of_file)
    ]

    assert [("me", "secret", "kafka"), ("me", "of the file", None)] == [
        (each.client_id, each.client_secret, each.scope) for each in endpoints
    ]
    assert ssl.CERT_REQUIRED is endpoints[0].trust.verify_mode
    assert "secret" not in repr(endpoints[0])


@pytest.mark.parametrize(
    "missing", ["sasl_oauth_token_url", "sasl_oauth_client_id", "sasl_oauth_client_secret"]
)
def test_missing_client_credentials_are_named(missing: str) -> None:
    with pytest.raises(ConfigError, match=rf"OAUTHBEARER needs .*kafka\.{missing}"):
        connect(oauth(**{missing: None}))


@pytest.mark.parametrize(
    "url",
    [
        "http://idp.example/token",
        "http://10.0.0.1/token",
        "ftp://idp.example",
        "token",
        "https://a:b@idp.example",
    ],
)
def test_a_secret_goes_nowhere_in_clear(url: str) -> None:
    with pytest.raises(ConfigError, match=r"kafka\.sasl_oauth_token_url: "):
        connect(oauth(sasl_oauth_token_url=url))


@pytest.mark.parametrize(
    "url", ["http://localhost:1/token", "http://127.0.0.1:1/token", "http://[::1]:1/token"]
)
def test_on_loopback_a_token_may_be_fetched_without_tls(url: str) -> None:
    assert url == connect(oauth(sasl_oauth_token_url=url)).arguments["sasl_oauth_token_provider"].endpoint.url


@pytest.mark.parametrize("key", ["ssl_ca_file", "ssl_cert_file", "ssl_key_file"])
def test_missing_certificates_are_named(key: str, tmp_path: Path) -> None:
    settings = KafkaSettings.model_validate({"security_protocol": "SSL", key: tmp_path / "missing"})

    with pytest.raises(ConfigError, match=rf"kafka\.{key}: .*missing cannot be read: No such file"):
        connect(settings)


def test_an_unusable_certificate_is_named(tmp_path: Path) -> None:
    (tmp_path / "ca").write_text("no certificate")

    with pytest.raises(ConfigError, match=r"kafka\.ssl_ca_file: .*ca is not a usable certificate"):
        connect(KafkaSettings(security_protocol="SSL", ssl_ca_file=tmp_path / "ca"))


def test_a_missing_password_file_is_named(tmp_path: Path) -> None:
    settings = KafkaSettings(
        security_protocol="SASL_PLAINTEXT", sasl_username="me", sasl_password_file=tmp_path / "missing"
    )

    with pytest.raises(ConfigError, match=r"kafka\.sasl_password_file"):
        connect(settings)
