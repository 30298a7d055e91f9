"""Spans on their way to a receiver, from a thread of its own.

Nothing here can hold up or fail the worker: what the receiver does not take is dropped and counted.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from threading import Condition, Thread
from types import TracebackType
from typing import Self

import structlog
from opentelemetry.sdk.resources import SERVICE_NAME, Resource

from stream_infer.tracing.otlp import encode_spans
from stream_infer.tracing.receiver import Receiver
from stream_infer.tracing.spans import Attribute, Span

MAX_QUEUED = 8192
"""Spans that wait for the receiver; more are dropped."""
MAX_EXPORTED = 512
"""Spans in one request, as OpenTelemetry's own processors have it."""
PAUSE_SECONDS = 1.0
"""How long spans wait for company."""
FLUSH_SECONDS = 3.0
"""How long the end waits for what is queued."""
DEFAULT_SERVICE = "stream-infer"

_UNNAMED = "unknown_service"

log = structlog.get_logger(__name__)


class Exporter:
    """Sends spans from a thread of its own while the context lasts.

    `endpoint` and `service_name` are those of the settings; without them OpenTelemetry's variables
    hold (`OTEL_EXPORTER_OTLP_ENDPOINT`, `OTEL_SERVICE_NAME`), and then its defaults. Its other
    variables hold too: those of `Receiver`, and `OTEL_RESOURCE_ATTRIBUTES`.

    Raises:
        ConfigError: a variable has a value that cannot be used.
    """

    def __init__(self, endpoint: str | None, service_name: str | None) -> None:
        self.dropped = 0
        """Spans that did not reach the receiver."""
        self._resource = _resource(service_name)
        self._receiver = Receiver(endpoint)
        self._changed = Condition()
        self._queue: list[Span] = []
        self._in_hand = 0
        self._is_closing = False
        self._is_failing = False
        # A daemon: a receiver that never answers must not keep the process from ending.
        self._thread = Thread(target=self._work, name="trace-exporter", daemon=True)

    async def __aenter__(self) -> Self:
        self._thread.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Send what is queued, for a bounded time; the rest is dropped."""
        with self._changed:
            self._is_closing = True
            self._changed.notify()
        await asyncio.to_thread(self._thread.join, FLUSH_SECONDS)
        self._receiver.close()
        with self._changed:
            self.dropped += self._in_hand + len(self._queue)
        if self.dropped:
            log.warning("trace_spans_dropped", spans=self.dropped)

    def export(self, spans: Sequence[Span]) -> None:
        """Queue spans, as far as there is room; this never waits."""
        with self._changed:
            room = MAX_QUEUED - len(self._queue)
            self._queue += spans[:room]
            self.dropped += max(len(spans) - room, 0)
            if len(self._queue) >= MAX_EXPORTED:
                self._changed.notify()

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(self._is_due, PAUSE_SECONDS)
                spans = self._queue[:MAX_EXPORTED]
                del self._queue[:MAX_EXPORTED]
                self._in_hand = len(spans)
                if not spans and self._is_closing:
                    return
            if spans:
                self._send(spans)

    def _is_due(self) -> bool:
        return self._is_closing or len(self._queue) >= MAX_EXPORTED

    def _send(self, spans: Sequence[Span]) -> None:
        """Send spans; the first failure after a success is logged, all of them are counted."""
        error = self._deliver(spans)
        with self._changed:
            self.dropped += self._in_hand if error else 0
            self._in_hand = 0
        if error and not self._is_failing:
            log.warning("trace_export_failed", spans=len(spans), error=error)
        self._is_failing = bool(error)

    def _deliver(self, spans: Sequence[Span]) -> str:
        """Return what went wrong, or an empty string."""
        try:
            return self._receiver.take(encode_spans(spans, self._resource))
        except Exception as error:  # noqa: BLE001 - the edge of a thread, which must go on
            return repr(error)


def _resource(service_name: str | None) -> Mapping[str, Attribute]:
    """Return what all spans have in common; the settings' name goes before the variables'."""
    resource = Resource.create({SERVICE_NAME: service_name} if service_name else None)
    attributes = {name: value for name, value in resource.attributes.items() if isinstance(value, Attribute)}
    if str(attributes[SERVICE_NAME]).startswith(_UNNAMED):
        attributes[SERVICE_NAME] = DEFAULT_SERVICE
    return attributes
