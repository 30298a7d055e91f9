"""Options and fixtures of all tests."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, settings

from loadgen.kafka.brokers import EMBEDDED, KINDS

# How long an example takes says how busy the machine is, and nothing of the code.
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Let the broker tests run on the embedded broker or on Apache Kafka."""
    parser.addoption(
        "--broker",
        choices=KINDS,
        default=EMBEDDED,
        help="the broker that tests marked `broker` or `faults` run on (kafka: Apache Kafka, fetched with "
        "Maven; kafka3: a cluster of three of it)",
    )
