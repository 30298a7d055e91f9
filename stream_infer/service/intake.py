"""Taking fetched records in: what is new of them is decoded and handed on, without holding others up."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from time import monotonic, time

from stream_infer.bus.codec import decode_request, record_id
from stream_infer.config import Settings, StreamSettings
from stream_infer.flow.outcomes import dead_letter
from stream_infer.personal_data import filter_of
from stream_infer.schemas import DeadLetter, Partition, Record, Request
from stream_infer.service.partitions import PartitionOwner

ADMITTED_AT_ONCE = 32
"""Records submitted together: a long text can take a second to be cut into sentences."""
LONGEST_TURN = 0.05
"""Seconds of taking in after which other tasks, heartbeats among them, have their turn."""


class Intake:
    """Takes records in for the owners of their partitions, and gives requests to `submit`."""

    def __init__(
        self,
        settings: Settings,
        owners: Mapping[Partition, PartitionOwner],
        submit: Callable[[Sequence[Request]], None],
    ) -> None:
        """`owners` changes as partitions come and go."""
        self._limits = settings.service
        self._personal_data = filter_of(settings.privacy.personal_data)
        self._streams = {stream.input: (name, stream) for name, stream in settings.streams.items()}
        self._owners = owners
        self._submit = submit

    async def admit(self, fetched: Mapping[Partition, Sequence[Record]]) -> None:
        """Take in what was fetched, without keeping heartbeats waiting for long.

        While others have their turn a partition may be lost, and even be owned again: what was fetched
        before that is left, for it will be fetched again.
        """
        resumed = monotonic()
        owned = [(owner, owner.tenure, fetched[p]) for p, owner in self._owners.items() if p in fetched]
        for owner, tenure, records in owned:
            for start in range(0, len(records), ADMITTED_AT_ONCE):
                if tenure is None or owner.tenure is not tenure:
                    break
                self._admit_some(owner, records[start : start + ADMITTED_AT_ONCE])
                if monotonic() - resumed > LONGEST_TURN:
                    await asyncio.sleep(0)
                    resumed = monotonic()

    def _admit_some(self, owner: PartitionOwner, records: Sequence[Record]) -> None:
        """Decode what is new and submit it; what cannot be decoded is an outcome already."""
        name, stream = self._streams[owner.partition.topic]
        now, wall_ms = monotonic(), int(time() * 1000)
        requests: list[Request] = []
        letters: list[DeadLetter] = []
        for record in owner.admit(records):
            request = self._decode(record, name, stream, now=now, wall_ms=wall_ms)
            if isinstance(request, DeadLetter):
                letters.append(request)
            else:
                requests.append(request)
        if letters:
            owner.finish(letters)
        self._submit(requests)

    def _decode(
        self, record: Record, name: str, stream: StreamSettings, *, now: float, wall_ms: int
    ) -> Request | DeadLetter:
        """Return the request without personal data, before anything else sees it, or why there is none."""
        try:
            request = decode_request(record, name, stream, self._limits, now=now, wall_ms=wall_ms)
            if self._personal_data is not None:
                request = request._replace(body=self._personal_data.apply(request.body))
        except Exception as error:  # noqa: BLE001 - the edge of the loop: one record must not stop the others
            return dead_letter(record, name, error, "decode", request_id=record_id(record), arrived=now)
        return request
