"""A receiver of traces that speaks OTLP over HTTP, decoded by OpenTelemetry's own messages."""

from __future__ import annotations

import gzip
import ssl
import threading
from email.message import Message
from http import HTTPStatus
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)

from tests.broker.loopback_server import LoopbackServer


class OtlpReceiver(LoopbackServer):
    """Keeps the spans that it is sent while the context lasts.

    It answers with each `statuses` in turn, and with the last from then on; spans are kept where it is OK.
    """

    def __init__(self, *statuses: HTTPStatus, tls: ssl.SSLContext | None = None) -> None:
        self._statuses = list(statuses) or [HTTPStatus.OK]
        self.resources: list[dict[str, Any]] = []
        self.spans: list[Any] = []
        self.requests = 0
        self.headers: dict[str, str] = {}
        self._lock = threading.Lock()
        super().__init__(tls)

    @property
    def endpoint(self) -> str:
        """Where to send traces."""
        return f"{self.address}/v1/traces"

    def take(self, path: str, body: bytes) -> HTTPStatus:
        """Decode one request."""
        with self._lock:
            self.requests += 1
            status = self._statuses.pop(0) if len(self._statuses) > 1 else self._statuses[0]
            if status is HTTPStatus.OK:
                assert "/v1/traces" == path
                for group in ExportTraceServiceRequest.FromString(body).resource_spans:
                    self.resources.append(attributes(group.resource))
                    self.spans += [span for scope in group.scope_spans for span in scope.spans]
        return status

    def reply(self, path: str, headers: Message, body: bytes) -> tuple[HTTPStatus, bytes]:
        """Take a request in, compressed or not."""
        self.headers = dict(headers)
        content = gzip.decompress(body) if headers.get("content-encoding") == "gzip" else body
        return self.take(path, content), ExportTraceServiceResponse().SerializeToString()


def attributes(of: Any) -> dict[str, Any]:
    """Return a span's or resource's attributes as plain values."""
    return {pair.key: getattr(pair.value, pair.value.WhichOneof("value")) for pair in of.attributes}
