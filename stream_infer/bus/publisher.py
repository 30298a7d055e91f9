"""Writing records that stand for themselves: no transaction, no position."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self

from aiokafka.errors import KafkaError

from stream_infer.bus.batches import OutRecord
from stream_infer.bus.connection import Connection, bus_error
from stream_infer.bus.sending import BATCH_BYTES, confirm, send_records, start_producer, stop_producer
from stream_infer.errors import BusError


class Publisher:
    """Writes records once each, in the order they are handed over; one call at a time.

    Records without a key go to one partition a call, to the next with the next call.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._producer: Any = None
        self._turn = 0

    async def __aenter__(self) -> Self:
        await self._start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the connections; what no `publish` has seen confirmed may be lost."""
        await stop_producer(self._producer)

    async def publish(self, records: Sequence[OutRecord]) -> None:
        """Return once the broker has the records, however long it is out of reach.

        Raises:
            RecordTooLargeError: one record is too large for the broker.
            AccessRefusedError: the broker does not allow it.
            BusError: the broker refuses; some of the records may have been written.
        """
        self._turn += 1
        try:
            deliveries = await send_records(self._producer, records, keyless=self._turn)
            await confirm(self._producer, deliveries)
        except (KafkaError, BusError) as error:
            await stop_producer(self._producer)
            await self._start()
            if isinstance(error, BusError):
                raise
            raise bus_error("the records were not written", error) from error

    async def _start(self) -> None:
        try:
            self._producer = await start_producer(
                self._connection, batch_bytes=BATCH_BYTES, transactional_id=None
            )
        except KafkaError as error:
            raise bus_error("no producer could be started", error) from error
