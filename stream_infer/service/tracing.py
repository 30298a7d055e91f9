"""Traces of a worker as its settings ask for them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from random import Random
from typing import TYPE_CHECKING

from stream_infer.config import Settings, TracesSettings
from stream_infer.errors import ConfigError
from stream_infer.tracing.sampling import Sampler, SamplingPolicy
from stream_infer.tracing.tracer import Tracer

if TYPE_CHECKING:
    from stream_infer.tracing.exporter import Exporter


class Tracing:
    """A worker's tracer, or none, and how many spans were dropped so far."""

    def __init__(self, tracer: Tracer | None = None, dropped: Callable[[], int] = int) -> None:
        self.tracer = tracer
        self.dropped = dropped


@asynccontextmanager
async def open_tracing(settings: Settings) -> AsyncIterator[Tracing]:
    """Export traces while the context lasts, if the settings ask for them.

    Raises:
        ConfigError: they do, and the extra is not installed.
    """
    if not settings.traces.enabled:
        yield Tracing()
        return
    async with _make_exporter(settings.traces) as exporter:
        yield Tracing(_make_tracer(settings, exporter), lambda: exporter.dropped)


def _make_exporter(traces: TracesSettings) -> Exporter:
    try:
        # Only here: who does without traces need not have the library, and does not load it.
        from stream_infer.tracing.exporter import Exporter  # noqa: PLC0415
    except ImportError as error:
        message = f"traces.enabled: needs the extra: pip install 'stream-infer[traces]' ({error})"
        raise ConfigError(message) from error
    return Exporter(traces.endpoint, traces.service_name)


def _make_tracer(settings: Settings, exporter: Exporter) -> Tracer:
    traces = settings.traces
    policy = SamplingPolicy(traces.sample_ratio, traces.always_late, traces.always_dead_letters)
    return Tracer(
        Sampler(policy),
        exporter.export,
        Random().getrandbits,  # noqa: S311 - ids must differ, and may be guessed
        group=settings.service.group,
        precisions={name: str(model.precision) for name, model in settings.used_models.items()},
        with_ids=traces.record_ids,
    )
