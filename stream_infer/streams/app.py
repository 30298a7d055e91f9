"""The Faust application and the agents that the settings ask for.

`documents` turns documents into passages; `labels` and `observations` turn results and feedback into
trends and quality.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, Final

import faust
from faust.auth import Credentials

from stream_infer.bus.connection import Connection
from stream_infer.bus.publisher import Publisher
from stream_infer.config import Settings
from stream_infer.personal_data import filter_of
from stream_infer.schemas import Task
from stream_infer.streams.agent import Agent, Handler
from stream_infer.streams.dead_letters import DeadLetters
from stream_infer.streams.documents import Embedder
from stream_infer.streams.labels import LabelTables, ObservationFold, ObservationGatherer
from stream_infer.streams.needs import (
    COUNTS_TABLE,
    STATEMENTS_TABLE,
    WINDOWS_TABLE,
    dead_letters_topic,
    has_task,
    label_topics,
)
from stream_infer.streams.passages import DocumentHandler
from stream_infer.streams.table import DurableTable
from stream_infer.streams.transport import CommittedTransport

DOCUMENTS: Final = "documents"
LABELS: Final = "labels"
OBSERVATIONS: Final = "observations"
AGENTS: Final = (DOCUMENTS, LABELS, OBSERVATIONS)

FEEDBACK: Final = "feedback"
"""What dead letters of bad feedback name as their stream."""

WAITING_DOCUMENTS: Final = 16
"""Fetched documents that wait in memory; each can be as long as a document may be."""
MAX_LABELS: Final = 500
"""Fetched labels that wait in memory, and how many of them one commit may be for."""
LOOPBACK: Final = "127.0.0.1"
_HEARTBEATS: Final = 3
"""Heartbeats in one session timeout."""


class StreamsApp:
    """The Faust application and its agents.

    `embedder` may be None where no stream answers; `publishers` has one for each of `AGENTS`. After
    a failure that is no record's fault `failed` has the exception, and the process must end.
    """

    def __init__(
        self,
        settings: Settings,
        connection: Connection,
        embedder: Embedder | None,
        publishers: Mapping[str, Publisher],
        data_dir: str,
    ) -> None:
        self._settings = settings
        self._publishers = publishers
        self._agents: list[Agent] = []
        self.failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.faust = _make_app(settings, connection, data_dir)
        if embedder is not None and has_task(settings, Task.ANSWER):
            self._add_documents(embedder)
        if has_task(settings, Task.CLASSIFY):
            self._add_labels()
        self.faust.on_partitions_revoked.connect(self._hand_over, weak=False)

    async def drain(self) -> None:
        """Return once the records in work are done; no further ones are begun."""
        await asyncio.gather(*(agent.drain() for agent in self._agents))

    async def _hand_over(self, *_partitions: Any, **_signal: Any) -> None:
        await asyncio.gather(*(agent.hand_over() for agent in self._agents))

    def _add_documents(self, embedder: Embedder) -> None:
        retrieval = self._settings.retrieval
        handler = DocumentHandler(
            retrieval,
            self._table(COUNTS_TABLE, int, default=int),
            embedder,
            self._publishers[DOCUMENTS],
            self._dead_letters(DOCUMENTS, DOCUMENTS, Task.ANSWER),
            personal_data=filter_of(self._settings.privacy.personal_data),
        )
        self._add(DOCUMENTS, [retrieval.documents], handler, max_batch=1, max_waiting=WAITING_DOCUMENTS)

    def _add_labels(self) -> None:
        side_streams = self._settings.side_streams
        gatherer = ObservationGatherer(
            side_streams, self._publishers[LABELS], self._dead_letters(LABELS, FEEDBACK, Task.CLASSIFY)
        )
        tables = LabelTables(self._table(WINDOWS_TABLE, bytes), self._table(STATEMENTS_TABLE, bytes))
        fold = ObservationFold(side_streams, tables, self._publishers[OBSERVATIONS])
        many = {"max_batch": MAX_LABELS, "max_waiting": MAX_LABELS}
        self._add(LABELS, label_topics(self._settings), gatherer, **many)
        self._add(OBSERVATIONS, [side_streams.observations], fold, **many)

    def _add(
        self, name: str, topics: Sequence[str], handler: Handler, *, max_batch: int, max_waiting: int
    ) -> None:
        agent = Agent(
            self.faust, name, topics, handler, max_batch=max_batch, max_waiting=max_waiting, fail=self._fail
        )
        self._agents.append(agent)

    def _table(self, name: str, kind: type, **options: Any) -> DurableTable:
        table: Any = self.faust.Table(name, key_type=bytes, value_type=kind, **options)
        return table  # type: ignore[no-any-return] # DurableTable by the application's settings

    def _dead_letters(self, agent: str, stream: str, task: Task) -> DeadLetters:
        return DeadLetters(
            self._publishers[agent],
            dead_letters_topic(self._settings, task),
            stream,
            hides_text=self._settings.privacy.hides_text,
        )

    def _fail(self, error: Exception) -> None:
        if not self.failed.done():
            self.failed.set_exception(error)


class _App(faust.App):
    def _new_transport(self) -> Any:
        return CommittedTransport(self.conf.broker_consumer, self)


def credentials(arguments: Mapping[str, Any]) -> Credentials | None:
    """Return what Faust needs to log in, from the arguments that aiokafka's clients take."""
    context = arguments.get("ssl_context")
    if "sasl_oauth_token_provider" in arguments:
        return faust.OAuthCredentials(oauth_cb=arguments["sasl_oauth_token_provider"], ssl_context=context)
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
    return _App(
        side_streams.application,
        broker=[f"aiokafka://{server.strip()}" for server in connection.bootstrap_servers.split(",")],
        broker_credentials=credentials(connection.arguments),
        broker_session_timeout=session_timeout,
        broker_heartbeat_interval=session_timeout / _HEARTBEATS,
        consumer_group_instance_id=settings.kafka.instance_id,
        Table=DurableTable,
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
