"""Label trends of the running role are those of a batch recount, whatever was aborted, killed or repeated."""

from __future__ import annotations

import asyncio
import random
import signal
import time
from collections import Counter
from collections.abc import Iterable
from functools import partial
from pathlib import Path

import pytest

from stream_infer.bus.batches import OutRecord
from stream_infer.bus.client_codec import decode_result
from stream_infer.bus.connection import Connection
from stream_infer.schemas import Record
from tests.broker.label_streams import GRACE_MS, WINDOW_MS, Bodies, Given, LabelStreams, Worker
from tests.broker.probes import read_committed, write
from tests.broker.streams_process import running

ORDERLY, KILLED, MISCONFIGURED = 0, -signal.SIGKILL, 2
CHUNKS, CHUNK = 60, 12
SPAN_MS = 5_000
BEGIN_MS = int(time.time()) * 1_000 - 60_000
"""Where event time begins: brokers refuse the future, and delete the distant past."""

Counts = dict[int, Counter[str]]


def counts(bodies: Bodies) -> Counts:
    """Return the counts that were published, by the start of their window."""
    return {body["start_ms"]: Counter(body["counts"]) for body in bodies.values()}


def recount(results: Iterable[Record]) -> Counts:
    """Count one partition after the other, as a batch job over the topic would."""
    found: Counts = {}
    clocks: Counter[int] = Counter()
    for record in sorted(results, key=lambda one: (one.partition, one.offset)):
        start = record.timestamp_ms // WINDOW_MS * WINDOW_MS
        if start + WINDOW_MS + GRACE_MS > clocks[record.partition]:
            found.setdefault(start, Counter())[str(decode_result(record).body["label"])] += 1
            clocks[record.partition] = max(clocks[record.partition], record.timestamp_ms)
    return found


def has_counted(least: int, bodies: Bodies) -> bool:
    """Return whether so many results are counted."""
    return least <= sum(int(body["total"]) for body in bodies.values())


async def write_all(worker: Worker) -> None:
    """Write results of some seconds of event time, out of order, every third transaction aborted."""
    draw = random.Random(7)
    for chunk in range(CHUNKS):
        now_ms = BEGIN_MS + chunk * SPAN_MS // CHUNKS
        given = [
            Given(f"{chunk}-{n}", draw.choice("abc"), now_ms + draw.randrange(-2_500, 500))
            for n in range(CHUNK)
        ]
        await worker.write(given, is_aborted=chunk % 3 == 1)


async def repeat_observations(role: LabelStreams) -> None:
    """Write every observation once more, as a role that was killed before its commit does."""
    again = await read_committed(role.connection, role.topic("observations"))
    await role.put(*(OutRecord(role.topic("observations"), None, record.value) for record in again))


@pytest.mark.slow
async def test_trends_are_those_of_a_recount_after_kills_and_repeats(
    connection: Connection, tmp_path: Path
) -> None:
    async with running(LabelStreams(connection, tmp_path)) as role, role.worker() as worker:
        writing = asyncio.create_task(write_all(worker))
        for least in (1, CHUNKS * CHUNK // 4):
            await role.bodies_until("trends", partial(has_counted, least))
            assert KILLED == await role.end(signal.SIGKILL)
            await role.start()
        await writing
        expected = recount(await read_committed(connection, role.topic("results")))
        await role.bodies_until("trends", lambda found: counts(found) == expected)

        await repeat_observations(role)
        await worker.write([Given("last", "d", BEGIN_MS + SPAN_MS)])
        expected = recount(await read_committed(connection, role.topic("results")))
        await role.bodies_until("trends", lambda found: counts(found) == expected)

        assert ORDERLY == await role.end(signal.SIGTERM)
        assert expected == counts(
            await role.bodies_until("trends", lambda found: len(found) == len(expected))
        )
        assert "results_late" in role.log_path.read_text()


async def test_results_of_others_are_passed_over(connection: Connection, tmp_path: Path) -> None:
    async with running(LabelStreams(connection, tmp_path)) as role, role.worker() as worker:
        await write(connection, role.topic("results"), [b"", b"\xc1", b"{}"], key=b"others")
        await worker.write([Given("others", "", body={"text": "no label"})])
        await worker.write([Given("others", "a", BEGIN_MS)])

        found = await role.bodies_until("trends", bool)

        assert {BEGIN_MS: Counter(a=1)} == counts(found)
        assert 4 == role.log_path.read_text().count("result_passed_over")


async def test_observations_must_meet_in_one_partition(connection: Connection, tmp_path: Path) -> None:
    role = LabelStreams(connection, tmp_path)
    await role.make_topics(observation_partitions=2)
    await role.start()

    assert MISCONFIGURED == await role.wait()
    assert "must have" in role.log_path.read_text()
