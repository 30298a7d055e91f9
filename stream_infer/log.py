"""Structured logs: events with fields, as JSON lines on stderr; never a user's text."""

from __future__ import annotations

import logging
import sys
from typing import Any

import structlog

LIBRARY_LEVEL = logging.WARNING
"""Libraries below us speak only when something is wrong: aiokafka's informational lines name group
coordinators and metadata that say nothing to an operator."""

_QUIET = ("aiokafka", "opentelemetry")
"""Libraries that repeat every failed connection; what becomes of it is raised, and logged by us."""


def configure_logging(level: str = "info", *, as_json: bool = True) -> None:
    """Send this process's logs, libraries' included, to stderr through one format."""
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    renderer: Any = structlog.processors.JSONRenderer() if as_json else structlog.dev.ConsoleRenderer()
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared, structlog.stdlib.ExtraAdder()],
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.format_exc_info,
                renderer,
            ],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(LIBRARY_LEVEL)
    logging.getLogger("stream_infer").setLevel(level.upper())
    for name in _QUIET:
        logging.getLogger(name).setLevel(logging.CRITICAL)
