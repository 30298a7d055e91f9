"""A receiver of traces that speaks OTLP over HTTP, decoded by OpenTelemetry's own messages."""

from __future__ import annotations

import gzip
import ssl
import threading
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)


class OtlpReceiver:
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
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._scheme = "https" if tls else "http"
        if tls:
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True)
        self._thread = threading.Thread(target=self._server.serve_forever)

    @property
    def endpoint(self) -> str:
        """Where to send traces."""
        return f"{self._scheme}://127.0.0.1:{self._server.server_port}/v1/traces"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

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

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                if self.headers.get("content-encoding") == "gzip":
                    body = gzip.decompress(body)
                receiver.headers = dict(self.headers)
                self.send_response(receiver.take(self.path, body))
                self.end_headers()
                self.wfile.write(ExportTraceServiceResponse().SerializeToString())

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        return Handler


def attributes(of: Any) -> dict[str, Any]:
    """Return a span's or resource's attributes as plain values."""
    return {pair.key: getattr(pair.value, pair.value.WhichOneof("value")) for pair in of.attributes}
