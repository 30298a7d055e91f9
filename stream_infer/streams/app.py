"""The Faust application: topic `documents` to topic `passages`, with passage counts in a table."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, Final

import faust
import structlog
from faust.auth import Credentials

from stream_infer.bus.batches import OutRecord
from stream_infer.bus.codec import encode_bare_dead_letter, encode_dead_letter, record_id
from stream_infer.bus.connection import Connection
from stream_infer.bus.pacing import pace_empty_fetches
from stream_infer.bus.publisher import Publisher
from stream_infer.config import Settings
from stream_infer.errors import EngineError, OutcomeError, RecordTooLargeError
from stream_infer.retrieval.documents import document_key
from stream_infer.schemas import DeadLetter, Record
from stream_infer.streams.documents import Embedder, decode_change, passage_records
from stream_infer.streams.needs import COUNTS_TABLE, dead_letters_topic

log = structlog.get_logger(__name__)

STREAM: Final = "documents"
"""What dead letters of this role name as their stream."""

BUFFERED_RECORDS: Final = 16
"""Fetched documents that wait in memory; each can be as long as a document may be."""
LOOPBACK: Final = "127.0.0.1"
_HEARTBEATS: Final = 3
"""Heartbeats in one session timeout."""


class StreamsApp:
    """The Faust application and its agent.

    An exception that is no fault of the record leaves it uncommitted and ends up in `failed`: the
    process must then end, and the record is read again after the restart.
    """

    def __init__(
        self,
        settings: Settings,
        connection: Connection,
        embedder: Embedder,
        publisher: Publisher,
        data_dir: str,
    ) -> None:
        self._passages_topic = settings.retrieval.passages
        self._dead_letters_topic = dead_letters_topic(settings)
        self._default_collection = settings.retrieval.default_collection
        self._embedder = embedder
        self._publisher = publisher
        self._is_ending = False
        self._work = asyncio.Lock()
        self._last_offsets: dict[int, int] = {}
        self.failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.faust = _make_app(settings, connection, data_dir)
        self._counts = self.faust.Table(COUNTS_TABLE, default=int, key_type=bytes, value_type=int)
        source = _SourceTopic(
            self.faust, topics=[settings.retrieval.documents], key_type=bytes, value_type=bytes, acks=False
        )
        self.faust.agent(source, name=STREAM, concurrency=1)(self._consume)
        self.faust.on_partitions_revoked.connect(self._hand_over, weak=False)

    async def drain(self) -> None:
        """Return once the document in work is done; no further one is begun."""
        self._is_ending = True
        async with self._work:
            pass

    async def _hand_over(self, *_partitions: Any, **_signal: Any) -> None:
        """Keep the partitions until the document in work is done, so that nobody writes old passages late."""
        async with self._work:
            self._last_offsets.clear()

    async def _consume(self, stream: Any) -> None:
        async for event in stream.events():
            async with self._work:
                if not self._is_ending:
                    await self._take_or_fail(event.message)
            if self._is_ending:
                await asyncio.Event().wait()  # Until Faust ends the agent: nothing is taken any more.

    async def _take_or_fail(self, message: Any) -> None:
        try:
            await self._take(message)
        except Exception as error:  # noqa: BLE001 - the edge of the role: whatever it is, the process ends
            self._is_ending = True
            self.failed.set_exception(error)

    async def _take(self, message: Any) -> None:
        """Handle a record, then commit it.

        A record from before a rebalance is fetched again by whoever has its partition now, and one
        that Faust delivers twice is handled once.
        """
        is_stale = message.generation_id != self.faust.consumer_generation_id
        if is_stale or message.offset <= self._last_offsets.get(message.partition, -1):
            return
        await self._handle(to_record(message))
        # Faust's own commit counts what it acknowledges, and that includes records it dropped while
        # stopping or rebalancing. This one names the record that was handled.
        consumer: Any = self.faust.consumer
        await consumer._commit({message.tp: message.offset + 1})  # noqa: SLF001
        self._last_offsets[message.partition] = message.offset

    async def _handle(self, record: Record) -> None:
        try:
            change = decode_change(record, self._default_collection)
            key = document_key(change.collection, change.document)
            old_count = self._counts[key]
            records, count = await passage_records(change, old_count, self._embedder, self._passages_topic)
        except OutcomeError as error:
            await self._reject(record, error)
        else:
            await self._replace(key, records, old_count, count)
            log.info("passages_published", position=record.position, passages=count, before=old_count)

    async def _reject(self, record: Record, error: OutcomeError) -> None:
        stage = "engine" if isinstance(error, EngineError) else "decode"
        letter = DeadLetter(record, record_id(record), STREAM, error.reason, str(error), stage)
        try:
            await self._publisher.publish([encode_dead_letter(letter, self._dead_letters_topic)])
        except RecordTooLargeError:
            await self._publisher.publish([encode_bare_dead_letter(letter, self._dead_letters_topic)])
        log.warning("document_rejected", position=record.position, reason=error.reason)

    async def _replace(self, key: bytes, records: Sequence[OutRecord], old_count: int, count: int) -> None:
        """Publish the records while the table never counts fewer passages than the topic may hold."""
        if count > old_count:
            await self._record_count(key, count)
        await self._publisher.publish(records)
        if count < old_count:
            await self._record_count(key, count)

    async def _record_count(self, key: bytes, count: int) -> None:
        if count:
            self._counts[key] = count
        else:
            del self._counts[key]
        await self.faust.producer.flush()


class _SourceTopic(faust.Topic):
    """A topic whose buffer survives the resuming of the flow.

    At the start, and after a rebalance, Faust lets records in, then resumes the flow once the tables
    are back; resuming empties the buffers, and the records in them are not fetched again.
    """

    @property
    def queue(self) -> Any:
        """The records that wait for the agent."""
        if self._queue is None:
            self._queue = self.app.FlowControlQueue(maxsize=BUFFERED_RECORDS, clear_on_resume=False)
        return self._queue


def to_record(message: Any) -> Record:
    """Return a Faust message as the record it was read from."""
    headers = message.headers or ()
    pairs = headers.items() if isinstance(headers, Mapping) else headers
    return Record(
        topic=message.topic,
        partition=message.partition,
        offset=message.offset,
        timestamp_ms=round(message.timestamp * 1000),
        key=message.key,
        value=message.value,
        headers=tuple(pairs),
    )


def credentials(arguments: Mapping[str, Any]) -> Credentials | None:
    """Return what Faust needs to log in, from the arguments that aiokafka's clients take."""
    context = arguments.get("ssl_context")
    if "sasl_mechanism" in arguments:
        return faust.SASLCredentials(
            username=arguments["sasl_plain_username"],
            password=arguments["sasl_plain_password"],
            mechanism=arguments["sasl_mechanism"],
            ssl_context=context,
        )
    return faust.SSLCredentials(context) if context is not None else None


def _make_app(settings: Settings, connection: Connection, data_dir: str) -> faust.App:
    side_streams = settings.side_streams
    # A killed member keeps its partitions until the session times out.
    session_timeout = settings.kafka.session_timeout_ms / 1000
    pace_empty_fetches()
    return faust.App(
        side_streams.application,
        broker=[f"aiokafka://{server.strip()}" for server in connection.bootstrap_servers.split(",")],
        broker_credentials=credentials(connection.arguments),
        broker_session_timeout=session_timeout,
        broker_heartbeat_interval=session_timeout / _HEARTBEATS,
        consumer_group_instance_id=settings.kafka.instance_id,
        store="memory://",
        datadir=data_dir,
        autodiscover=False,
        key_serializer="raw",
        value_serializer="raw",
        # Topics are declared in files and made by a command, never by whoever starts first.
        topic_allow_declare=False,
        topic_disable_leader=True,
        web_enabled=side_streams.port > 0,
        web_bind=LOOPBACK,
        web_host=LOOPBACK,
        web_port=side_streams.port or None,
    )
