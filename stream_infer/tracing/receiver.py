"""The receiver of traces, spoken to by HTTP as OpenTelemetry's variables say.

Their names and meaning: https://opentelemetry.io/docs/specs/otel/protocol/exporter/.
"""

from __future__ import annotations

import gzip
import os
from typing import Final

import requests
from opentelemetry.util.re import parse_env_headers
from requests.adapters import HTTPAdapter
from urllib3.util import Retry

from stream_infer.errors import ConfigError

_PREFIX: Final = "OTEL_EXPORTER_OTLP_"
_DEFAULT_ADDRESS: Final = "http://localhost:4318"
_PATH: Final = "/v1/traces"
_DEFAULT_TIMEOUT_SECONDS: Final = 10.0
_RETRIES: Final = Retry(
    total=3,
    backoff_factor=1.0,
    # Those that the protocol says may be tried again.
    status_forcelist=(429, 502, 503, 504),
    allowed_methods=None,
    raise_on_status=False,
)


class Receiver:
    """Takes encoded requests; `endpoint` goes before the variables, which go before the defaults.

    Heard are `OTEL_EXPORTER_OTLP_ENDPOINT`, `_HEADERS`, `_TIMEOUT` (in seconds, as OpenTelemetry for Python
    has it), `_COMPRESSION`, `_CERTIFICATE`, `_CLIENT_CERTIFICATE` and `_CLIENT_KEY`, and before each of them
    that of traces alone: `OTEL_EXPORTER_OTLP_TRACES_ENDPOINT` and so on.

    Raises:
        ConfigError: a variable has a value that cannot be used.
    """

    def __init__(self, endpoint: str | None) -> None:
        self._endpoint = endpoint or _endpoint()
        self._timeout = _timeout()
        self._is_compressed = _is_compressed()
        self._session = requests.Session()
        retrying = HTTPAdapter(max_retries=_RETRIES)
        self._session.mount("http://", retrying)
        self._session.mount("https://", retrying)
        self._session.headers["Content-Type"] = "application/x-protobuf"
        if self._is_compressed:
            self._session.headers["Content-Encoding"] = "gzip"
        self._session.headers.update(parse_env_headers(_variable("HEADERS") or "", liberal=True))
        self._session.cert = _client_certificate()
        self._trusted = _variable("CERTIFICATE") or True

    def take(self, request: bytes) -> str:
        """Send a request, and again where the receiver may be busy; return what went wrong, or nothing."""
        body = gzip.compress(request) if self._is_compressed else request
        try:
            # With each request: a session's own gives way to REQUESTS_CA_BUNDLE.
            reply = self._session.post(self._endpoint, data=body, timeout=self._timeout, verify=self._trusted)
        except requests.RequestException as error:
            return repr(error)
        return "" if reply.ok else f"the receiver answered {reply.status_code} {reply.reason}"

    def close(self) -> None:
        """Close the connections."""
        self._session.close()


def _variable(name: str) -> str | None:
    return os.environ.get(f"{_PREFIX}TRACES_{name}") or os.environ.get(_PREFIX + name)


def _endpoint() -> str:
    if own := os.environ.get(f"{_PREFIX}TRACES_ENDPOINT"):
        return own
    return (os.environ.get(f"{_PREFIX}ENDPOINT") or _DEFAULT_ADDRESS).rstrip("/") + _PATH


def _timeout() -> float:
    value = _variable("TIMEOUT") or _DEFAULT_TIMEOUT_SECONDS
    try:
        seconds = float(value)
    except ValueError:
        seconds = 0.0
    if not seconds > 0.0:
        raise ConfigError(f"{_PREFIX}TIMEOUT: {value!r} is no time in seconds")
    return seconds


def _is_compressed() -> bool:
    value = _variable("COMPRESSION") or "none"
    if value not in {"none", "gzip"}:
        raise ConfigError(f"{_PREFIX}COMPRESSION: {value!r} is neither none nor gzip")
    return value == "gzip"


def _client_certificate() -> tuple[str, str] | str | None:
    certificate, key = _variable("CLIENT_CERTIFICATE"), _variable("CLIENT_KEY")
    return (certificate, key) if certificate and key else certificate
