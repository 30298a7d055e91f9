"""Consumers that read whatever brokers and other clients made of a topic: one way to make them all.

It knows brokers and aiokafka, and nothing of the service: any reader may use it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from aiokafka import AIOKafkaConsumer

from stream_infer.bus.aborts import AbortFilter
from stream_infer.bus.pacing import pace_empty_fetches
from stream_infer.bus.tolerance import accept_any_header_name

Isolation = Literal["read_committed", "read_uncommitted"]


def make_consumer(
    arguments: Mapping[str, Any], *, isolation: Isolation = "read_committed", **options: Any
) -> Any:
    """Return a consumer, not yet started, whose positions are its owner's to name and to commit.

    `arguments` say how to reach the broker; `options` are aiokafka's.
    """
    consumer = AIOKafkaConsumer(
        **arguments,
        isolation_level=isolation,
        enable_auto_commit=False,
        auto_offset_reset="none",
        **options,
    )
    harden(consumer)
    return consumer


def harden(consumer: Any) -> None:
    """Make a consumer, before it starts, cope with stale aborts, empty answers and any header name."""
    accept_any_header_name()
    pace_empty_fetches()
    AbortFilter(consumer)
