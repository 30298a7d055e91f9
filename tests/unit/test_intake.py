"""Taking records in gives other tasks their turn, and what they change meanwhile is heeded."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, cast

import pytest

from stream_infer.config_loading import load_settings
from stream_infer.schemas import DeadLetter, Partition, Record, Request
from stream_infer.service import intake as module
from stream_infer.service.intake import ADMITTED_AT_ONCE, Intake

FIRST, SECOND = Partition("requests.classify", 0), Partition("requests.classify", 1)


class Owner:
    """A partition's owner that notes what it admits."""

    def __init__(self, partition: Partition) -> None:
        self.partition = partition
        self.tenure: object | None = object()
        self.admitted: list[Record] = []
        self.finished: list[DeadLetter] = []

    def admit(self, records: Sequence[Record]) -> list[Record]:
        """Take them all."""
        self.admitted += records
        return list(records)

    def finish(self, outcomes: Sequence[DeadLetter]) -> None:
        """Note what was refused at the door."""
        self.finished += outcomes


class Inference:
    """Notes what is submitted."""

    def __init__(self) -> None:
        self.submitted: list[Request] = []

    def submit(self, requests: Sequence[Request]) -> None:
        """Take them."""
        self.submitted += requests


def fetched(partition: Partition, count: int) -> list[Record]:
    return [
        Record(partition.topic, partition.partition, offset, 1_000, None, b'{"text": "hello"}')
        for offset in range(count)
    ]


@pytest.fixture
def owners(monkeypatch: pytest.MonkeyPatch) -> dict[Partition, Owner]:
    monkeypatch.setattr(module, "LONGEST_TURN", -1.0)
    return {partition: Owner(partition) for partition in (FIRST, SECOND)}


def intake_of(owners: dict[Partition, Owner], inference: Inference) -> Intake:
    return Intake(load_settings(), cast("Any", owners), inference.submit)


async def test_everything_is_submitted_in_order(owners: dict[Partition, Owner]) -> None:
    inference = Inference()
    intake = intake_of(owners, inference)
    records = {partition: fetched(partition, 3 * ADMITTED_AT_ONCE + 1) for partition in owners}

    await intake.admit(records)

    assert records == {partition: owner.admitted for partition, owner in owners.items()}
    assert [record for each in records.values() for record in each] == [
        request.record for request in inference.submitted
    ]


@pytest.mark.parametrize("tenure", [None, object()])
async def test_what_was_fetched_before_a_loss_is_left(
    owners: dict[Partition, Owner], tenure: object | None
) -> None:
    """Also when the partition is owned again by then: its new flow begins at the committed position."""
    inference = Inference()
    intake = intake_of(owners, inference)

    async def lose() -> None:
        for owner in owners.values():
            owner.tenure = tenure

    losing = asyncio.create_task(lose())
    await intake.admit({partition: fetched(partition, 2 * ADMITTED_AT_ONCE) for partition in owners})
    await losing

    assert (ADMITTED_AT_ONCE, 0) == tuple(len(owner.admitted) for owner in owners.values())


async def test_a_partition_without_an_owner_is_passed_over(owners: dict[Partition, Owner]) -> None:
    inference = Inference()
    intake = intake_of({FIRST: owners[FIRST]}, inference)

    await intake.admit({SECOND: fetched(SECOND, 3), FIRST: fetched(FIRST, 3)})

    assert [FIRST.partition] * 3 == [request.record.partition for request in inference.submitted]
