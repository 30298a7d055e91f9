"""How to reach a broker: its addresses, and what a secured one asks for. No secret appears in a repr."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from stream_infer.bus.obstacles import find_obstacle
from stream_infer.bus.security import Security, security_arguments

SECRETS: Final = {
    "sasl_password": "LOADGEN_SASL_PASSWORD",
    "sasl_oauth_client_secret": "LOADGEN_SASL_OAUTH_CLIENT_SECRET",
}
"""The secrets, and the variables of the environment that they may be in."""


@dataclass(frozen=True, slots=True)
class Broker:
    """Where the broker is, and aiokafka's arguments for what it asks for."""

    bootstrap_servers: str
    protocol: str = "PLAINTEXT"
    security: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @property
    def arguments(self) -> dict[str, Any]:
        """What every aiokafka client takes."""
        return {
            "bootstrap_servers": self.bootstrap_servers,
            "security_protocol": self.protocol,
            **self.security,
        }

    async def obstacle(self) -> str:
        """Return why it cannot be reached, or nothing if it can."""
        found = await find_obstacle(self.arguments, option_name)
        return found.text if found else ""


def secured(bootstrap_servers: str, security: Security, environment: Mapping[str, str]) -> Broker:
    """Return the broker that is reached in this way; a secret's file goes before the environment.

    Raises:
        SecurityError: something is missing, cannot be used, or would be passed over by the protocol.
    """
    found: dict[str, Any] = {
        name: environment.get(variable)
        for name, variable in SECRETS.items()
        if _asks_for(name, security) and getattr(security, f"{name}_file") is None
    }
    arguments = security_arguments(replace(security, **found), option_name)
    return Broker(bootstrap_servers, security.security_protocol, arguments)


def option_name(field_name: str) -> str:
    """Return the option, or the variable of the environment, that a field of `Security` comes from."""
    return SECRETS.get(field_name) or "--" + field_name.replace("_", "-")


def _asks_for(secret: str, security: Security) -> bool:
    """Whether the secret is of any use: a variable that is set for another run is no fault of this one."""
    is_oauth = security.sasl_mechanism == "OAUTHBEARER"
    return "SASL" in security.security_protocol and is_oauth == secret.startswith("sasl_oauth")
