"""Options and fixtures of all tests."""

from __future__ import annotations

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    """Let the broker tests run on the embedded broker or on Apache Kafka."""
    parser.addoption(
        "--broker",
        choices=("embedded", "kafka"),
        default="embedded",
        help="the broker that tests marked `broker` run on (kafka: Apache Kafka, fetched with Maven)",
    )
