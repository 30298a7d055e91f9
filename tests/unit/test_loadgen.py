import asyncio
import random
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import msgpack
import pytest

from loadgen.producer import Clock, Load, plan_events, send_events
from loadgen.schedule import Arrivals, due_times
from loadgen.texts import TASKS, load_bodies, with_repeats


def load(**changes: Any) -> Load:
    settings: dict[str, Any] = {
        "topic": "requests.classify",
        "bodies": [{"text": f"text {number}"} for number in range(20)],
        "rate": 10.0,
        "count": 20,
        "max_seconds": 60.0,
        "arrivals": Arrivals.CONSTANT,
        "repeat_share": 0.0,
        "keys": 4,
        "run": "test",
    }
    return Load(**{**settings, **changes})


def dice() -> random.Random:
    return random.Random(1)


class FakeSender:
    """Acknowledges what it is sent, or fails it; each send takes `cost` seconds of the fake clock."""

    def __init__(self, cost: float = 0.0, *, fails: bool = False) -> None:
        self.time = 100.0
        self.cost = cost
        self.fails = fails
        self.records: list[dict[str, Any]] = []
        self.clock = Clock(now=lambda: self.time, wall=lambda: 1_700_000_000.0, sleep=self._sleep)

    async def _sleep(self, seconds: float) -> None:
        self.time += seconds

    async def send(
        self, topic: str, value: bytes, key: bytes | None, *, timestamp_ms: int, headers: Any
    ) -> asyncio.Future[None]:
        """Take the record."""
        self.time += self.cost
        record = {"topic": topic, "value": value, "key": key, "timestamp_ms": timestamp_ms}
        self.records.append({**record, "headers": headers, "at": self.time})
        future = asyncio.get_running_loop().create_future()
        if self.fails:
            future.set_exception(OSError("no broker"))
        else:
            future.set_result(None)
        return future


def test_a_constant_rate_is_even() -> None:
    assert [0.0, 0.25, 0.5, 0.75, 1.0] == list(islice(due_times(4.0, Arrivals.CONSTANT, dice()), 5))


def test_poisson_arrivals_keep_the_rate_on_average() -> None:
    times = list(islice(due_times(50.0, Arrivals.POISSON, dice()), 5_001))
    gaps = [after - before for before, after in pairwise(times)]

    assert 100.0 == pytest.approx(times[-1], rel=0.05)
    assert 0.02**2 == pytest.approx(sum((gap - 0.02) ** 2 for gap in gaps) / len(gaps), rel=0.1)


@pytest.mark.parametrize("task", TASKS)
def test_bodies_are_distinct_and_follow_the_seed(task: str) -> None:
    bodies = load_bodies(task, seed=3)

    assert len(bodies) == len({msgpack.packb(body) for body in bodies})
    assert bodies == load_bodies(task, seed=3)
    assert bodies != load_bodies(task, seed=4)


def test_reference_texts_are_prose_of_mixed_length() -> None:
    lengths = sorted(len(body["text"].split()) for body in load_bodies("classify", seed=0))

    assert 1_000 < len(lengths)
    assert 4 <= lengths[0] < 8
    assert 50 < lengths[-1] < 500


def test_own_texts_come_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "texts.txt"
    path.write_text("One.\nTwo.\n", encoding="utf-8")

    assert {"One.", "Two."} == {body["text"] for body in load_bodies("translate", 0, path)}
    assert {"One.", "Two."} == {body["question"] for body in load_bodies("answer", 0, path)}


def test_repeats_make_up_their_share() -> None:
    bodies = [{"text": str(number)} for number in range(10_000)]
    sent = [body["text"] for body in islice(with_repeats(bodies, 0.25, dice()), 4_000)]

    assert 0.25 == pytest.approx(1 - len(set(sent)) / len(sent), abs=0.03)


def test_without_repeats_every_text_is_sent_before_any_comes_again() -> None:
    bodies = [{"text": str(number)} for number in range(5)]

    assert [*bodies, *bodies] == list(islice(with_repeats(bodies, 0.0, dice()), 10))


def test_a_load_ends_by_count_or_by_time() -> None:
    assert 20 == len(list(plan_events(load(), dice())))
    assert 5 == len(list(plan_events(load(max_seconds=0.5), dice())))


def test_events_carry_ids_keys_and_msgpack_maps() -> None:
    events = list(plan_events(load(), dice()))

    assert [f"test-{number}" for number in range(20)] == [event.id for event in events]
    assert {b"key-0", b"key-1", b"key-2", b"key-3"} == {event.key for event in events}
    assert {"text": "text 0"} == msgpack.unpackb(events[0].value)
    assert {None} == {event.key for event in plan_events(load(keys=0), dice())}


async def test_records_are_stamped_by_schedule_and_not_by_sending() -> None:
    """A sender that takes half a second for each record falls behind; the stamps do not."""
    sender = FakeSender(cost=0.5)
    summary = await send_events(load(count=4), sender, dice(), sender.clock)

    assert [0, 100, 200, 300] == [record["timestamp_ms"] - 1_700_000_000_000 for record in sender.records]
    assert 1_200.0 == summary["max_lag_ms"]
    assert 2.0 == summary["rate"]


async def test_events_leave_when_they_are_due() -> None:
    sender = FakeSender()
    summary = await send_events(load(count=3), sender, dice(), sender.clock)

    assert [100.0, 100.1, 100.2] == pytest.approx([record["at"] for record in sender.records])
    assert [("ce_id", b"test-0")] == sender.records[0]["headers"]
    assert (3, 3, 0) == (summary["sent"], summary["acknowledged"], summary["failed"])


async def test_failures_are_counted() -> None:
    sender = FakeSender(fails=True)
    summary = await send_events(load(count=2), sender, dice(), sender.clock)

    assert (2, 0, 2) == (summary["sent"], summary["acknowledged"], summary["failed"])
