"""Over all lanes: no idle engine while work waits, no miss by waiting, no lane starved by another."""

from hypothesis import given, settings
from hypothesis import strategies as st

from stream_infer.flow.batcher import Batcher
from stream_infer.flow.cost import CostModel
from stream_infer.flow.lane import Lane, LaneLimits
from stream_infer.flow.pending import Pending
from stream_infer.schemas import Work

EPSILON = 1e-9


def piece(size: int, deadline: float) -> Pending:
    item = Pending(b"", Work("m", ""), deadline)
    item.size = size
    return item


def lane(name: str = "m", tokens: int = 100) -> Lane:
    return Lane(name, LaneLimits(tokens, 10), CostModel(overhead=0.0, per_token=0.01))


def test_an_idle_engine_takes_what_there_is() -> None:
    one = lane()
    batcher = Batcher([one])
    one.add(piece(10, 100.0))
    assert batcher.next_batch(0.0, idle=False) is None
    batch = batcher.next_batch(0.0, idle=True)
    assert batch
    assert 10 == batch.tokens
    assert batcher.next_batch(0.0, idle=True) is None


def test_a_full_batch_leaves() -> None:
    one = lane()
    batcher = Batcher([one])
    for _ in range(9):
        one.add(piece(1, 100.0))
    assert batcher.next_batch(0.0, idle=False) is None
    one.add(piece(1, 100.0))
    assert batcher.next_batch(0.0, idle=False)


def test_none_leaves_that_takes_longer_than_there_is_time_for() -> None:
    """The other lane's leaves instead, though this one's is due before it."""
    long, short = lane("long"), lane("short")
    batcher = Batcher([long, short])
    long.add(piece(60, 1.0))
    short.add(piece(30, 2.0))

    batches = [batcher.next_batch(0.0, idle=True, within=0.5) for _ in range(2)]

    assert ["short", None] == [batch and batch.lane for batch in batches]


def test_a_batch_leaves_when_its_oldest_deadline_needs_it_to() -> None:
    """A later arrival does not postpone a batch that is already waiting."""
    one = lane()
    batcher = Batcher([one])
    one.add(piece(10, 1.0))
    one.add(piece(10, 9.0))
    assert 0.8 == batcher.next_wake(0.0)
    assert batcher.next_batch(0.79, idle=False) is None
    assert batcher.next_batch(0.8, idle=False)


def test_an_overdue_piece_does_not_wait() -> None:
    one = lane()
    batcher = Batcher([one])
    one.add(piece(10, 1.0))
    assert 5.0 == batcher.next_wake(5.0)
    assert batcher.next_batch(5.0, idle=False)


def test_nothing_to_wake_for() -> None:
    assert Batcher([lane()]).next_wake(0.0) is None


def test_a_piece_at_rest_wakes_its_lane() -> None:
    one = lane()
    batcher = Batcher([one])
    one.rest(piece(10, 1.0), until=3.0)
    assert 3.0 == batcher.next_wake(0.0)
    assert batcher.next_batch(2.0, idle=True) is None
    assert batcher.next_batch(3.0, idle=False)


def test_the_lane_that_is_due_first_runs_first() -> None:
    near, far = lane("near"), lane("far")
    batcher = Batcher([far, near])
    far.add(piece(10, 50.0))
    near.add(piece(90, 50.5))
    batch = batcher.next_batch(0.0, idle=True)
    assert batch
    assert "near" == batch.lane


def test_a_flood_on_one_lane_does_not_make_another_late() -> None:
    """The flooded lane's pieces are long overdue; it gets what the live one leaves, which is most."""
    flooded, live = lane("flooded"), lane("live")
    batcher = Batcher([flooded, live])
    for age in range(2000):
        flooded.add(piece(50, -float(age)))
    now, late, ran = 0.0, 0, {"flooded": 0, "live": 0}
    for _ in range(300):
        live.add(piece(10, now + 2.5))
        batch = batcher.next_batch(now, idle=True)
        assert batch
        now += batch.expected
        ran[batch.lane] += batch.tokens
        late += sum(item.deadline < now - EPSILON for item in batch.items if batch.lane == "live")
    assert 0 == late
    assert ran["flooded"] > 5 * ran["live"] > 0


def test_overdue_parts_of_failed_batches_neither_starve_another_lane_nor_are_starved() -> None:
    poisoned, live, backlog = lane("poisoned"), lane("live"), lane("backlog")
    batcher = Batcher([poisoned, backlog, live])
    poisoned.add_parts([[piece(50, -9.0)] for _ in range(3)])
    for _ in range(9):
        backlog.add(piece(100, -1.0))
    live.add(piece(10, 0.5))
    batches = [batcher.next_batch(0.0, idle=True)]
    batches += [batcher.next_batch(float(now), idle=True) for now in range(1, 7)]
    lanes = [batch.lane for batch in batches if batch]
    assert ["live", "poisoned", "backlog", "poisoned", "backlog", "poisoned", "backlog"] == lanes


def test_overdue_lanes_share_the_engine() -> None:
    lanes = [lane("a"), lane("b")]
    batcher = Batcher(lanes)
    for age in range(20):
        lanes[0].add(piece(100, -100.0 - age))
        lanes[1].add(piece(100, -float(age)))
    batches = [batcher.next_batch(float(now), idle=True) for now in range(10)]
    assert 5 == sum(batch.lane == "a" for batch in batches if batch)


ARRIVALS = st.lists(
    st.tuples(st.sampled_from("ab"), st.integers(1, 60), st.floats(0, 20), st.floats(0.01, 5)), max_size=40
)


@settings(max_examples=50)
@given(arrivals=ARRIVALS)
def test_waiting_never_makes_a_batch_late(arrivals: list[tuple[str, int, float, float]]) -> None:
    """On an engine that is never idle, asked only when told to: who waits still leaves in time.

    Late are only pieces that could not be on time when they arrived, had to share an engine of
    limited size with more urgent ones, or were pushed beyond one batch by a burst.
    """
    lanes = {name: lane(name, tokens=100_000) for name in "ab"}
    batcher = Batcher(lanes.values())
    pending = sorted(arrivals, key=lambda arrival: arrival[2])
    for index, (name, size, arrived, slack) in enumerate(pending):
        now = arrived
        lanes[name].add(piece(size, now + slack))
        until = pending[index + 1][2] if index + 1 < len(pending) else float("inf")
        while (wake := batcher.next_wake(now)) is not None and wake <= until:
            savable = {each.name: each.due for each in lanes.values() if not each.is_overdue}
            now = wake
            batch = batcher.next_batch(now, idle=False)
            assert batch, "woken for nothing"
            if batch.lane in savable and savable[batch.lane] >= now:
                assert now + batch.expected <= min(item.deadline for item in batch.items) + EPSILON
        assert wake is None or batcher.next_batch(now, idle=False) is None
    assert all(each.is_empty for each in lanes.values())


@settings(max_examples=50)
@given(arrivals=ARRIVALS)
def test_an_idle_engine_never_waits_and_everything_runs(
    arrivals: list[tuple[str, int, float, float]],
) -> None:
    lanes = {name: lane(name) for name in "ab"}
    batcher = Batcher(lanes.values())
    for name, size, _, deadline in arrivals:
        lanes[name].add(piece(size, deadline))
    ran = 0
    while not all(each.is_empty for each in lanes.values()):
        batch = batcher.next_batch(float(ran), idle=True)
        assert batch
        ran += len(batch.items)
    assert len(arrivals) == ran
