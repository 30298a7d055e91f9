"""A client that asks over the bus and awaits the answer, as a call would."""

# ruff: noqa: ASYNC109 - `timeout` is an argument because the error names the request
from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from types import TracebackType
from typing import Any, Self
from uuid import uuid4

from stream_infer.bus.batches import OutRecord
from stream_infer.bus.client_codec import (
    decode_dead_letter,
    decode_result,
    encode_feedback,
    encode_request,
    outcome_id,
)
from stream_infer.bus.connection import connect
from stream_infer.bus.follower import TopicFollower
from stream_infer.bus.publisher import Publisher
from stream_infer.config import BUILTIN_STREAMS, KafkaSettings, StreamSettings, StreamsSettings
from stream_infer.errors import BusError, ConfigError, MalformedRecordError, StreamInferError, TooLargeError
from stream_infer.schemas import (
    AnswerBody,
    Body,
    ClassifyBody,
    DeadLetter,
    Outcome,
    Record,
    Result,
    Task,
    TranslateBody,
)
from stream_infer.tracing.current import current_traceparent

DEFAULT_TIMEOUT = 30.0
MAX_UNSENT = 1_000
MAX_SENT_AT_ONCE = 500
MAX_REQUEST_BYTES = 1_000_000
"""What a broker takes unless told otherwise, with a little room. One that it refuses would fail the
others that are sent with it."""

_TASKS: dict[type[Body], Task] = {
    ClassifyBody: Task.CLASSIFY,
    TranslateBody: Task.TRANSLATE,
    AnswerBody: Task.ANSWER,
}


class RequestFailedError(StreamInferError):
    """The request ended as a dead letter; `reason` is its word for machines, `error` its sentence."""

    def __init__(self, letter: DeadLetter) -> None:
        super().__init__(f"request {letter.id}: {letter.reason}: {letter.error}")
        self.reason = letter.reason
        self.error = letter.error


def _new_id() -> str:
    return uuid4().hex


@dataclass(frozen=True, slots=True)
class ClientRequest:
    """What to ask; results of one key keep the order of their requests.

    `traceparent` names the span that asks (W3C Trace Context); without one it is OpenTelemetry's
    current span, if there is any.
    """

    body: Body
    key: bytes | None = None
    id: str = field(default_factory=_new_id)
    traceparent: str = ""


@dataclass(frozen=True, slots=True)
class _Unsent:
    id: str
    record: OutRecord
    outcome: asyncio.Future[Any]
    has_outcome: bool = True
    """Whether a record will come back; if not, `outcome` is done once the broker has this one."""


class Client:
    """Asks a running service; use it as an async context manager, from one event loop.

    It reads the output topics from the moment it was entered, without a group, so any number of
    clients may ask at once and each finds its own answers by id.
    """

    def __init__(
        self,
        bootstrap_servers: str | None = None,
        *,
        settings: KafkaSettings | None = None,
        streams: Mapping[str, StreamSettings] = BUILTIN_STREAMS,
        feedback_topic: str = StreamsSettings().feedback,
    ) -> None:
        self._feedback_topic = feedback_topic
        self._connection = connect(settings or KafkaSettings(), bootstrap_servers)
        self._streams = {stream.task: stream for stream in streams.values()}
        outputs = {topic for stream in streams.values() for topic in (stream.output, stream.dead_letters)}
        self._follower = TopicFollower(self._connection, outputs, start="end")
        self._dead_letters = {stream.dead_letters for stream in streams.values()}
        self._publisher = Publisher(self._connection)
        self._unsent: asyncio.Queue[_Unsent] = asyncio.Queue(MAX_UNSENT)
        self._pending: dict[str, asyncio.Future[Outcome]] = {}
        self._refusal: BusError | None = None
        self._tasks = asyncio.TaskGroup()
        self._running: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        """Connect; requests are only sent once their answers would be seen.

        Raises:
            BusError: the broker is out of reach, or an output topic does not exist.
        """
        await self._follower.__aenter__()
        try:
            await self._publisher.__aenter__()
        except BaseException:
            await self._follower.__aexit__(None, None, None)
            raise
        await self._tasks.__aenter__()
        self._running = [self._tasks.create_task(self._send()), self._tasks.create_task(self._receive())]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the connections; requests that still wait fail with a `BusError`."""
        for task in self._running:
            task.cancel()
        await self._tasks.__aexit__(None, None, None)
        for identity, outcome in self._pending.items():
            if not outcome.done():
                outcome.set_exception(BusError(f"request {identity}: the client was closed"))
        await self._publisher.__aexit__(None, None, None)
        await self._follower.__aexit__(None, None, None)

    async def classify(
        self, text: str, *, key: bytes | None = None, timeout: float = DEFAULT_TIMEOUT
    ) -> Result:
        """Return the text's label, score and scores."""
        return await self.ask(ClientRequest(ClassifyBody(text), key), timeout=timeout)

    async def translate(
        self,
        text: str,
        *,
        source: str | None = None,
        target: str | None = None,
        key: bytes | None = None,
        timeout: float = DEFAULT_TIMEOUT,
    ) -> Result:
        """Return the text's translation."""
        return await self.ask(ClientRequest(TranslateBody(text, source, target), key), timeout=timeout)

    async def answer(
        self,
        question: str,
        *,
        context: str | None = None,
        collection: str | None = None,
        top_k: int | None = None,
        key: bytes | None = None,
        timeout: float = DEFAULT_TIMEOUT,
    ) -> Result:
        """Return the answer with its citations."""
        return await self.ask(
            ClientRequest(AnswerBody(question, context, collection, top_k), key), timeout=timeout
        )

    async def feedback(
        self, identity: str, label: str, *, key: bytes | None = None, timeout: float = DEFAULT_TIMEOUT
    ) -> None:
        """Say what the right label of a request was; return once the broker has it.

        It finds the result by `identity`, whatever the key. The quality of the model that gave the
        result counts it while both are within the side streams' window; said again, the last stands.

        Raises:
            TimeoutError: the broker did not take it within `timeout` seconds.
            BusError: the broker refuses it.
        """
        record = encode_feedback(self._feedback_topic, identity, label, key=key)
        unsent = _Unsent(identity, record, asyncio.get_running_loop().create_future(), has_outcome=False)
        try:
            async with asyncio.timeout(timeout):
                await self._unsent.put(unsent)
                await unsent.outcome
        except TimeoutError:
            raise TimeoutError(f"feedback on {identity}: not taken within {timeout:g} s") from None

    async def ask(self, request: ClientRequest, *, timeout: float = DEFAULT_TIMEOUT) -> Result:
        """Return the request's result.

        Raises:
            RequestFailedError: it ended as a dead letter.
            TooLargeError: it is longer than `MAX_REQUEST_BYTES`; it was not sent.
            TimeoutError: neither came within `timeout` seconds; it may still come later.
            BusError: the request could not be sent, or the client was closed.
        """
        unsent = self._register(request)
        try:
            async with asyncio.timeout(timeout):
                await self._unsent.put(unsent)
                outcome: Outcome = await unsent.outcome
        except TimeoutError:
            raise TimeoutError(f"request {request.id}: no outcome within {timeout:g} s") from None
        finally:
            self._pending.pop(request.id, None)
        if isinstance(outcome, DeadLetter):
            raise RequestFailedError(outcome)
        return outcome

    async def submit(
        self,
        requests: Iterable[ClientRequest],
        *,
        in_flight: int = MAX_UNSENT,
        timeout: float = DEFAULT_TIMEOUT,
    ) -> AsyncIterator[tuple[str, Outcome]]:
        """Give each request's id and outcome as they come, with at most `in_flight` under way.

        Raises:
            TooLargeError: a request is longer than `MAX_REQUEST_BYTES`; it was not sent.
            TimeoutError: no outcome came for `timeout` seconds; one request still waited for is named.
            BusError: a request could not be sent, or the client was closed.
        """
        finished: asyncio.Queue[str] = asyncio.Queue()
        waiting: dict[str, asyncio.Future[Outcome]] = {}
        remaining = iter(requests)
        try:
            while True:
                try:
                    while len(waiting) < in_flight and (request := next(remaining, None)) is not None:
                        unsent = self._register(request)
                        waiting[request.id] = unsent.outcome
                        unsent.outcome.add_done_callback(partial(_report, finished, request.id))
                        await asyncio.wait_for(self._unsent.put(unsent), timeout)
                    if not waiting:
                        return
                    identity = await asyncio.wait_for(finished.get(), timeout)
                except TimeoutError:
                    raise TimeoutError(
                        f"request {next(iter(waiting))}: no outcome within {timeout:g} s"
                    ) from None
                yield identity, waiting.pop(identity).result()
        finally:
            for identity in waiting:
                self._pending.pop(identity, None)

    def _register(self, request: ClientRequest) -> _Unsent:
        task = _TASKS[type(request.body)]
        if (stream := self._streams.get(task)) is None:
            raise ConfigError(f"no stream does {task}")
        if self._refusal is not None:
            raise self._refusal
        if request.id in self._pending:
            raise ValueError(f"request {request.id} is under way already")
        traceparent = request.traceparent or current_traceparent()
        record = encode_request(
            request.body, stream.input, request.id, key=request.key, traceparent=traceparent
        )
        size = len(record.value or b"") + len(record.key or b"")
        if size > MAX_REQUEST_BYTES:
            raise TooLargeError(f"request {request.id}: {size} bytes, the limit is {MAX_REQUEST_BYTES}")
        outcome = self._pending[request.id] = asyncio.get_running_loop().create_future()
        return _Unsent(request.id, record, outcome)

    async def _send(self) -> None:
        while True:
            batch = [await self._unsent.get()]
            while not self._unsent.empty() and len(batch) < MAX_SENT_AT_ONCE:
                batch.append(self._unsent.get_nowait())
            try:
                await self._publisher.publish([unsent.record for unsent in batch])
            except BusError as error:
                for unsent in batch:
                    if unsent.has_outcome:
                        self._pending.pop(unsent.id, None)
                    if not unsent.outcome.done():
                        unsent.outcome.set_exception(error)
            else:
                for unsent in batch:
                    if not unsent.has_outcome and not unsent.outcome.done():
                        unsent.outcome.set_result(None)

    async def _receive(self) -> None:
        """Settle what comes, until the broker refuses for good; then nothing is awaited any more."""
        try:
            async for records in self._follower:
                self._take(records)
        except BusError as error:
            self._refusal = error
            for outcome in self._pending.values():
                if not outcome.done():
                    outcome.set_exception(error)

    def _take(self, records: list[Record]) -> None:
        for record in records:
            identity = outcome_id(record)
            outcome = self._pending.get(identity) if identity else None
            if outcome is not None and not outcome.done():
                self._settle(record, outcome)
                self._pending.pop(str(identity), None)

    def _settle(self, record: Record, outcome: asyncio.Future[Outcome]) -> None:
        decode = decode_dead_letter if record.topic in self._dead_letters else decode_result
        try:
            outcome.set_result(decode(record))
        except MalformedRecordError as error:
            outcome.set_exception(error)


def _report(finished: asyncio.Queue[str], identity: str, _outcome: asyncio.Future[Outcome]) -> None:
    finished.put_nowait(identity)
