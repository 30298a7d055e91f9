"""A listener of Apache Kafka that asks for TLS and a password, and what its clients need to know."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path

USER = "loader"
PASSWORD = "of the tests' own"  # noqa: S105 - of a broker that lives as long as its test
_KEYSTORE_PASSWORD = "changeit"  # noqa: S105 - as above

_PROPERTIES = """
listener.name.secured.ssl.keystore.type=PKCS12
listener.name.secured.ssl.keystore.location={keystore}
listener.name.secured.ssl.keystore.password={keystore_password}
listener.name.secured.sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-256
listener.name.secured.plain.sasl.jaas.config=\\
 org.apache.kafka.common.security.plain.PlainLoginModule required user_{user}="{password}";
listener.name.secured.scram-sha-256.sasl.jaas.config=\\
 org.apache.kafka.common.security.scram.ScramLoginModule required;
"""
SCRAM_USER = f"SCRAM-SHA-256=[name={USER},password={PASSWORD}]"
"""Who is known by SCRAM, as the tool that formats a broker's storage is told."""


@dataclass(frozen=True, slots=True)
class SecuredListener:
    """The files of a listener that is named SECURED."""

    directory: Path

    @property
    def ca_file(self) -> Path:
        """What clients trust."""
        return self.directory / "ca.pem"

    @property
    def properties(self) -> str:
        """What the broker's settings say of the listener."""
        return _PROPERTIES.format(
            keystore=self._keystore,
            keystore_password=_KEYSTORE_PASSWORD,
            user=USER,
            password=PASSWORD,
        )

    def make_certificate(self, keytool: str, host: str) -> None:
        """Make a key, and a certificate for the host that vouches for itself."""
        store = ("-alias", "broker", "-keystore", str(self._keystore), "-storepass", _KEYSTORE_PASSWORD)
        names = ("-dname", f"CN={host}", "-ext", f"san=ip:{host}", "-ext", "bc:critical=ca:true")
        key = ("-keyalg", "RSA", "-storetype", "PKCS12", "-validity", "2")
        _run(keytool, "-genkeypair", *store, *key, *names)
        self.ca_file.write_text(_run(keytool, "-exportcert", "-rfc", *store), encoding="ascii")

    @property
    def _keystore(self) -> Path:
        return self.directory / "broker.p12"


def _run(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout  # noqa: S603 - a test's own tool
