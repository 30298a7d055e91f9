"""What Faust reads with: committed records only, whatever their headers are called.

Faust reads uncommitted records unless it writes in transactions itself. Results are written in
transactions of others, and one that was aborted has no results.
"""

from __future__ import annotations

from typing import Any

from faust.transport.drivers import aiokafka as driver

from stream_infer.bus.consumer import harden


class _CommittedThread(driver.AIOKafkaConsumerThread):
    def _create_worker_consumer(self, transport: Any) -> Any:
        consumer = super()._create_worker_consumer(transport)
        consumer._isolation_level = "read_committed"  # noqa: SLF001 - Faust has no setting for it
        harden(consumer)
        return consumer


class _CommittedConsumer(driver.Consumer):
    def _new_consumer_thread(self) -> driver.AIOKafkaConsumerThread:
        return _CommittedThread(self, loop=self.loop, beacon=self.beacon)


class CommittedTransport(driver.Transport):
    """Faust's own way to Kafka, but for what its consumer is given to read."""

    Consumer = _CommittedConsumer
