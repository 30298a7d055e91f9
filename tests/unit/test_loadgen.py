import asyncio
import random
from collections.abc import Sequence
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import msgpack
import pytest
from aiokafka.errors import KafkaTimeoutError

from loadgen.producer import HOT_KEY, POISON, Clock, Load, Sender, plan_events, send_events
from loadgen.recorder import Recorder
from loadgen.schedule import Arrivals, Profile, ScheduleError, due_times, load_recorded
from loadgen.texts import (
    TASKS,
    BodiesError,
    Pool,
    Words,
    fresh_bodies,
    load_bodies,
    split_by_words,
    with_repeats,
)

EVEN = Profile(Arrivals.CONSTANT, 10.0)


def load(**changes: Any) -> Load:
    settings: dict[str, Any] = {
        "topic": "requests.classify",
        "pools": [pool_of(20)],
        "profile": EVEN,
        "count": 20,
        "max_seconds": 60.0,
        "keys": 4,
        "run": "test",
    }
    return Load(**{**settings, **changes})


def pool_of(count: int, share: float = 1.0) -> Pool:
    return Pool([{"text": f"text {number}"} for number in range(count)], share)


def dice() -> random.Random:
    return random.Random(1)


class FakeSender:
    """Acknowledges what it is sent, or fails it; each send takes `cost` seconds of the fake clock."""

    def __init__(self, cost: float = 0.0, *, fails: bool = False, refuses: bool = False) -> None:
        self.time = 100.0
        self.cost = cost
        self.fails = fails
        self.refuses = refuses
        self.records: list[dict[str, Any]] = []
        self.clock = Clock(now=lambda: self.time, wall=lambda: 1_700_000_000.0, sleep=self._sleep)

    async def _sleep(self, seconds: float) -> None:
        self.time += seconds

    async def send(
        self, topic: str, value: bytes, key: bytes | None, *, timestamp_ms: int, headers: Any
    ) -> asyncio.Future[None]:
        """Take the record."""
        if self.refuses:
            raise KafkaTimeoutError
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
    times = due_times(Profile(Arrivals.CONSTANT, 4.0), dice())

    assert [0.0, 0.25, 0.5, 0.75, 1.0] == list(islice(times, 5))


def test_poisson_arrivals_keep_the_rate_on_average() -> None:
    times = list(islice(due_times(Profile(Arrivals.POISSON, 50.0), dice()), 5_001))
    gaps = [after - before for before, after in pairwise(times)]

    assert 100.0 == pytest.approx(times[-1], rel=0.05)
    assert 0.02**2 == pytest.approx(sum((gap - 0.02) ** 2 for gap in gaps) / len(gaps), rel=0.1)


def test_bursts_keep_the_rate_and_come_at_the_start_of_their_period() -> None:
    profile = Profile(Arrivals.BURST, 10.0, burst_seconds=2.0, burst_share=0.25)
    times = list(islice(due_times(profile, dice()), 40))

    assert [0.0, 0.025, 0.05] == pytest.approx(times[:3])
    assert [2.0, 2.025] == pytest.approx(times[20:22])
    assert all(time % 2.0 < 0.5 for time in times)


def test_recorded_times_are_followed_from_the_first(tmp_path: Path) -> None:
    path = tmp_path / "times.txt"
    path.write_text("100.5\n100.5\n\n103.0\n", encoding="utf-8")
    profile = Profile(Arrivals.RECORDED, 10.0, recorded=load_recorded(path))

    assert [0.0, 0.0, 2.5] == list(due_times(profile, dice()))
    assert 3 == len(list(plan_events(load(profile=profile), dice())))


@pytest.mark.parametrize(
    ("text", "fault"), [("", "no times"), ("1\nnan", "entry 2 is not"), ("2\n1\n", "entry 2 is before")]
)
def test_a_recorded_schedule_that_cannot_be_followed_names_the_fault(
    tmp_path: Path, text: str, fault: str
) -> None:
    path = tmp_path / "times.txt"
    path.write_text(text, encoding="utf-8")

    with pytest.raises(ScheduleError, match=fault):
        load_recorded(path)


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


def test_whole_bodies_come_from_a_file_of_json_lines(tmp_path: Path) -> None:
    path = tmp_path / "bodies.jsonl"
    path.write_text('{"text": "Um.", "source": "pt", "target": "en"}\n', encoding="utf-8")

    assert [{"text": "Um.", "source": "pt", "target": "en"}] == load_bodies("translate", 0, path)

    path.write_text('{"text": "Um."}\n["Um."]\n', encoding="utf-8")
    with pytest.raises(BodiesError, match="jsonl:2: not a JSON object"):
        load_bodies("translate", 0, path)


def test_an_empty_file_of_texts_is_a_fault(tmp_path: Path) -> None:
    path = tmp_path / "texts.txt"
    path.write_text("\n", encoding="utf-8")

    with pytest.raises(BodiesError, match="no texts"):
        load_bodies("classify", 0, path)


def test_pools_make_up_their_shares() -> None:
    pools = [Pool([{"text": "one"}], share=3.0), Pool([{"text": "other"}], share=1.0)]
    sent = [body["text"] for body in islice(fresh_bodies(pools, dice()), 4_000)]

    assert 0.75 == pytest.approx(sent.count("one") / len(sent), abs=0.03)


def test_texts_are_split_into_classes_of_length() -> None:
    bodies = load_bodies("classify", seed=0)
    short, long = split_by_words(bodies, [Words(4, 10, 0.9), Words(40, 200, 0.1)])

    assert 10 >= max(len(body["text"].split()) for body in short.bodies)
    assert 40 <= min(len(body["text"].split()) for body in long.bodies)
    assert (0.9, 0.1) == (short.share, long.share)
    with pytest.raises(BodiesError, match="900 to 999 words"):
        split_by_words(bodies, [Words(900, 999, 1.0)])


def test_repeats_make_up_their_share() -> None:
    sent = [body["text"] for body in islice(with_repeats([pool_of(10_000)], 0.25, dice()), 4_000)]

    assert 0.25 == pytest.approx(1 - len(set(sent)) / len(sent), abs=0.03)


def test_without_repeats_every_text_is_sent_before_any_comes_again() -> None:
    pool = pool_of(5)

    assert [*pool.bodies, *pool.bodies] == list(islice(with_repeats([pool], 0.0, dice()), 10))


def test_a_load_ends_by_count_or_by_time() -> None:
    assert 20 == len(list(plan_events(load(), dice())))
    assert 5 == len(list(plan_events(load(max_seconds=0.5), dice())))


def test_events_carry_ids_keys_and_msgpack_maps() -> None:
    events = list(plan_events(load(), dice()))

    assert [f"test-{number}" for number in range(20)] == [event.id for event in events]
    assert {b"key-0", b"key-1", b"key-2", b"key-3"} == {event.key for event in events}
    assert {"text": "text 0"} == msgpack.unpackb(events[0].value)
    assert {None} == {event.key for event in plan_events(load(keys=0), dice())}


def test_a_hot_key_gets_its_share() -> None:
    keys = [event.key for event in plan_events(load(count=2_000, max_seconds=1e9, hot_share=0.4), dice())]

    assert 0.4 == pytest.approx(keys.count(HOT_KEY) / len(keys), abs=0.04)
    assert 5 == len(set(keys))


def test_poison_gets_its_share_and_is_known() -> None:
    events = list(plan_events(load(count=2_000, max_seconds=1e9, poison_share=0.1), dice()))

    assert 0.1 == pytest.approx(sum(event.is_poison for event in events) / len(events), abs=0.02)
    assert set(POISON) == {event.value for event in events if event.is_poison}
    assert not {event.value for event in events if not event.is_poison} & set(POISON)


async def send(
    what: Load, senders: FakeSender | Sequence[Sender], clock: Clock, recorder: Recorder | None = None
) -> Recorder:
    recorder = recorder or Recorder()
    await send_events(
        what, [senders] if isinstance(senders, FakeSender) else senders, dice(), recorder, clock
    )
    return recorder


async def test_records_are_stamped_by_schedule_and_not_by_sending() -> None:
    """A sender that takes half a second for each record falls behind; the stamps do not."""
    sender = FakeSender(cost=0.5)
    recorder = await send(load(count=4), sender, sender.clock)

    assert [0, 100, 200, 300] == [record["timestamp_ms"] - 1_700_000_000_000 for record in sender.records]
    assert 1.2 == pytest.approx(recorder.send_lag)


async def test_events_leave_when_they_are_due() -> None:
    sender = FakeSender()
    recorder = await send(load(count=3), sender, sender.clock)

    assert [100.0, 100.1, 100.2] == pytest.approx([record["at"] for record in sender.records])
    assert [("ce_id", b"test-0")] == sender.records[0]["headers"]
    assert (3, 3, 0, 3) == (recorder.sent, recorder.acknowledged, recorder.failed, recorder.outstanding)


async def test_several_senders_share_the_events() -> None:
    """Each event leaves once, and a sender that hangs holds up only the one that it has."""
    first, second = FakeSender(), FakeSender()
    released = asyncio.Event()

    class Hanging(FakeSender):
        async def send(self, *record: Any, **more: Any) -> asyncio.Future[None]:
            await released.wait()
            return await first.send(*record, **more)

    class Releasing(FakeSender):
        async def send(self, *record: Any, **more: Any) -> asyncio.Future[None]:
            if len(second.records) == 18:
                released.set()
            return await second.send(*record, **more)

    recorder = await send(load(), [Hanging(), Releasing()], second.clock)

    assert (1, 19) == (len(first.records), len(second.records))
    assert (20, 20) == (recorder.sent, recorder.acknowledged)


@pytest.mark.parametrize("fault", ["fails", "refuses"])
async def test_failures_are_counted_and_not_waited_for(fault: str) -> None:
    sender = FakeSender(fails=fault == "fails", refuses=fault == "refuses")
    recorder = await send(load(count=2), sender, sender.clock)

    assert (2, 0, 2, 0) == (recorder.sent, recorder.acknowledged, recorder.failed, recorder.outstanding)
