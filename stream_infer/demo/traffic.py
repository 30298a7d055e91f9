"""The demo's events on their way in, and their outcomes on their way back."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from time import monotonic

from stream_infer.bus.batches import OutRecord
from stream_infer.bus.client_codec import decode_dead_letter, decode_result, outcome_id
from stream_infer.bus.connection import Connection
from stream_infer.bus.follower import TopicFollower
from stream_infer.bus.publisher import Publisher
from stream_infer.bus.values import decode_value
from stream_infer.config import Settings
from stream_infer.demo.events import DemoEvent
from stream_infer.demo.view import LiveView
from stream_infer.errors import MalformedRecordError
from stream_infer.schemas import Record, Result

RATE = 25.0
"""Events sent per second: what a small machine carries with latencies worth looking at."""
IDLE_SECONDS = 20.0
"""How long nothing may come back before what is missing counts as lost."""
SETTLE_SECONDS = 1.0
"""How long to go on listening when everything is back: a duplicate would come now."""


class Traffic:
    """Sends events at a constant rate, whatever comes back, and tallies each outcome by id."""

    def __init__(self, settings: Settings, connection: Connection, view: LiveView) -> None:
        self._connection = connection
        self._view = view
        self._inputs = {stream.task: stream.input for stream in settings.streams.values()}
        self._dead_letters = {stream.dead_letters for stream in settings.streams.values()}
        self._outputs = self._dead_letters | {stream.output for stream in settings.streams.values()}
        self._events: dict[str, DemoEvent] = {}
        self._heard_at = 0.0
        self._came_back = asyncio.Event()

    async def run(self, events: Sequence[DemoEvent]) -> None:
        """Return when every event has come back, or nothing has for `IDLE_SECONDS`."""
        async with (
            TopicFollower(self._connection, self._outputs) as follower,
            Publisher(self._connection) as publisher,
            asyncio.TaskGroup() as group,
        ):
            listening = group.create_task(self._listen(follower))
            self._view.phase = "running"
            await self._send(publisher, events)
            await self._settle()
            listening.cancel()

    async def _send(self, publisher: Publisher, events: Sequence[DemoEvent]) -> None:
        """Send each event at its time; what the bus delays counts as latency."""
        started = monotonic()
        for number, event in enumerate(events):
            due = started + number / RATE
            await asyncio.sleep(max(due - monotonic(), 0.0))
            self._events[event.id] = event
            self._view.tally.sent(event.id, event.task, due)
            headers: list[tuple[str, bytes | None]] = [("ce_id", event.id.encode())]
            record = OutRecord(self._inputs[event.task], event.key.encode(), event.value, headers)
            await publisher.publish([record])
            self._view.rate = (number + 1) / max(monotonic() - started, 1 / RATE)

    async def _settle(self) -> None:
        self._heard_at = monotonic()
        while self._view.tally.lost and monotonic() - self._heard_at < IDLE_SECONDS:
            self._came_back.clear()
            try:
                await asyncio.wait_for(self._came_back.wait(), IDLE_SECONDS)
            except TimeoutError:
                break
        await asyncio.sleep(SETTLE_SECONDS)

    async def _listen(self, follower: TopicFollower) -> None:
        async for records in follower:
            now = monotonic()
            for record in records:
                self._note(record, now)
            self._heard_at = now
            self._came_back.set()

    def _note(self, record: Record, now: float) -> None:
        event_id = outcome_id(record) or record.position
        is_result = record.topic not in self._dead_letters
        self._view.tally.came_back(event_id, now, is_result=is_result)
        if (event := self._events.get(event_id)) is not None:
            came_out = _words_of(decode_result(record)) if is_result else decode_dead_letter(record).reason
            self._view.note(str(event.task), preview(event.value), came_out)


def _words_of(result: Result) -> str:
    """Return what a person wants to see of a result."""
    body = result.body
    if "label" in body:
        return f"{body['label']} ({body['score']:.2f})"
    return str(body.get("text") or body.get("answer") or "no answer")


def preview(value: bytes | None) -> str:
    """Return what a request asks, on one line, or what stands in the way of reading it."""
    try:
        fields = decode_value(value or b"", None)
    except MalformedRecordError as error:
        return f"({error})"
    return " ".join(str(fields.get("text") or fields.get("question") or fields).split())
