"""Every fault once, spread over the kinds of brokers; `python -m tests.faults` runs many more."""

from __future__ import annotations

from pathlib import Path

import msgpack
import pytest
from rich.console import Console

from loadgen.kafka.brokers import EMBEDDED, KAFKA, KAFKA3
from loadgen.verdict import Kind
from stream_infer.bus.batches import OutRecord
from stream_infer.bus.publisher import Publisher
from tests.broker.probes import read_committed
from tests.faults.catalogue import FAULTS, faults_for
from tests.faults.report import rows_of, table_of
from tests.faults.runner import Result, run
from tests.faults.scene import INPUT, OUTPUT, Conditions, Scene
from tests.faults.schedule import Injection, draw_schedule

SEED = 6
SHORT = Conditions(rate=600.0, outage_s=2.0)
STRUCK = {
    EMBEDDED: (
        "worker killed, back at once",
        "all workers killed",
        "worker stopped and started",
        "replica killed",
        "replica segfaults",
        "replica hangs",
        "replica's nursery killed",
        "record exhausts memory",
        "record makes the model raise",
        "worker's disk full",
    ),
    KAFKA: (
        "worker killed, taken over",
        "worker suspended past its session",
        "worker joins and leaves",
        "worker with other settings",
        "two workers with one instance id",
        "record kills the replica",
        "all brokers down",
        "broker's disk full",
        "worker started on a full disk",
        "clients throttled",
        "output too small for a result",
        "producer's clock years off",
    ),
    KAFKA3: (
        "more workers than partitions",
        "broker killed",
        "broker suspended",
        "brokers restarted in turn",
        "leaders moved",
        "connections cut",
        "connections slow",
        "connections stalled",
        "connections stalled past the session",
        "partition added",
    ),
}
LONG_RUN_ONLY = {"broker restarted", "worker's clock set", "replica out of memory"}
"""The first is what the turn does to each; the others need what is not on every machine."""


def test_every_fault_is_among_those_that_strike() -> None:
    assert set(FAULTS) - LONG_RUN_ONLY == {name for names in STRUCK.values() for name in names}


@pytest.mark.timeout(280)
async def test_nothing_is_lost_or_repeated_whatever_strikes(broker_kind: str, tmp_path: Path) -> None:
    faults = faults_for(broker_kind)
    shares = {name: faults[name].share for name in STRUCK[broker_kind]}
    schedule = draw_schedule(shares, len(shares), SEED)

    result = await run(broker_kind, schedule, SHORT, tmp_path, seed=SEED)

    assert result.has_passed, _told(result)
    assert [] == [struck.not_real for struck in result.struck if struck.not_real]
    assert len(schedule) == len(result.struck)
    assert all(row.records > 0 and row.recovery_max_s is not None for row in rows_of(result))


async def test_the_verdict_finds_what_is_lost_and_repeated(tmp_path: Path) -> None:
    """Planted where everything else has gone well."""
    schedule = [Injection("replica killed", seed=1)]

    result = await run(EMBEDDED, schedule, SHORT, tmp_path, seed=SEED, sabotage=_plant)

    assert {Kind.LOST: 1, Kind.DUPLICATED: 1} == dict(result.verdict.counts)
    assert not result.has_passed


async def _plant(scene: Scene) -> None:
    """Repeat an outcome, and send a request that nobody serves any more."""
    outcome = (await read_committed(scene.direct, OUTPUT))[-1]
    async with Publisher(scene.direct) as publisher:
        await publisher.publish([OutRecord(OUTPUT, outcome.key, outcome.value, list(outcome.headers))])
        await publisher.publish([OutRecord(INPUT, b"late", msgpack.packb({"text": "for nobody"}))])


def _told(result: Result) -> str:
    console = Console(width=140)
    with console.capture() as capture:
        console.print(table_of([result]))
    offenders = "\n".join(str(offender) for offender in result.verdict.offenders[:20])
    return f"{capture.get()}\n{result.problems}\n{result.verdict.doubts}\n{offenders}\n{result.struck}"
