"""The load generator's audit, as the tests of this folder ask for it."""

from __future__ import annotations

from collections.abc import Sequence

from loadgen import auditor
from loadgen.broker import Broker
from loadgen.verdict import Verdict
from stream_infer.bus.connection import Connection

__all__ = ["Verdict", "audit"]


async def audit(connection: Connection, inputs: str, outputs: Sequence[str]) -> Verdict:
    """Read the topics from beginning to end and judge them."""
    return await auditor.audit(Broker(connection.bootstrap_servers), [inputs], outputs)
