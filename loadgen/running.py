"""One run on a broker: events leave by their schedule while their outcomes are read."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError

from loadgen.broker import Broker
from loadgen.outcomes import read_outcome
from loadgen.producer import Load, Sender, send_events
from loadgen.reading import ReadingError, TopicReader, unreachable
from loadgen.recorder import Recorder
from loadgen.verdict import Source

REQUEST_TIMEOUT_MS: Final = 10_000
"""After so long without an answer of the broker a record has failed."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a run takes place; it waits up to `patience` seconds for an outcome more."""

    broker: Broker
    outputs: Collection[str]
    producers: int = 1
    patience: float = 60.0


@dataclass(frozen=True, slots=True)
class Carried:
    """A run that is over: what was recorded, and where the topics ended when it began."""

    recorder: Recorder
    since: Mapping[Source, int]
    is_cut_short: bool

    @property
    def is_complete(self) -> bool:
        """Whether everything was sent and every event that the broker took has its outcome."""
        return not (self.is_cut_short or self.recorder.fault or self.recorder.outstanding)


@dataclass(frozen=True, slots=True)
class Control:
    """How a run is watched, and stopped before its end."""

    stop: asyncio.Event = field(default_factory=asyncio.Event)
    on_progress: Callable[[Recorder], None] = lambda _: None


async def carry_out(
    load: Load, place: Place, seed: int, *, warm_up: float = 0.0, control: Control | None = None
) -> Carried:
    """Send a load and read its outcomes until all are there, patience is over, or it is stopped.

    Raises:
        ReadingError: the broker cannot be reached or a topic does not exist; nothing was sent.
    """
    control, recorder = control or Control(), Recorder(warm_up)
    async with TopicReader(place.broker) as reader, _senders(place) as senders:
        spans = await reader.spans({load.topic, *place.outputs})
        outputs = {source: span for source, span in spans.items() if source[0] in place.outputs}
        start = time.monotonic()
        sending = asyncio.create_task(send_events(load, senders, random.Random(seed), recorder, start=start))
        try:
            await _follow(
                reader.follow(outputs), sending, recorder, control, start=start, patience=place.patience
            )
        except ReadingError as error:
            recorder.fault = str(error)
        finally:
            is_cut_short = not sending.done()
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)
            recorder.finish(time.monotonic() - start)
    return Carried(recorder, {source: span.end for source, span in spans.items()}, is_cut_short)


async def _follow(
    batches: AsyncIterator[list[Any]],
    sending: asyncio.Task[None],
    recorder: Recorder,
    control: Control,
    *,
    start: float,
    patience: float,
) -> None:
    """Take outcomes until there are no more to come; patience begins anew with each."""
    progressed, known = start, 0
    async for records in batches:
        now = time.monotonic()
        for record in records:
            _receive(recorder, record, now - start)
        control.on_progress(recorder)
        if recorder.outcomes > known or not sending.done():
            progressed, known = now, recorder.outcomes
        if sending.done():
            sending.result()
        is_over = sending.done() and (not recorder.outstanding or now - progressed > patience)
        if is_over or control.stop.is_set():
            return


def _receive(recorder: Recorder, record: Any, now: float) -> None:
    outcome = read_outcome(record)
    identity = outcome.id.decode(errors="replace") if outcome else ""
    recorder.receive(identity, now, is_dead_letter=outcome is not None and outcome.is_dead_letter)


@asynccontextmanager
async def _senders(place: Place) -> AsyncIterator[Sequence[Sender]]:
    """Give running producers; not idempotent ones, which never give up on a broker that is gone."""
    async with AsyncExitStack() as stack:
        senders = [
            AIOKafkaProducer(**place.broker.arguments, linger_ms=1, request_timeout_ms=REQUEST_TIMEOUT_MS)
            for _ in range(place.producers)
        ]
        try:
            for sender in senders:
                await stack.enter_async_context(sender)
        except KafkaError as error:
            raise ReadingError(await unreachable(place.broker, error)) from error
        yield senders
