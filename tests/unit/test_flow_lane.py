"""One model's queue: within its limits, the urgent first, alike lengths together, nobody forgotten."""

from collections.abc import Iterable

from hypothesis import given, settings
from hypothesis import strategies as st

from stream_infer.flow.cost import CostModel
from stream_infer.flow.lane import Lane, LaneLimits
from stream_infer.flow.pending import Batch, Pending
from stream_infer.schemas import Work

FAR = 1000.0


def piece(size: int, deadline: float = FAR) -> Pending:
    item = Pending(b"", Work("m", ""), deadline)
    item.size = size
    return item


def lane_with(
    items: Iterable[Pending],
    *,
    tokens: int = 100,
    count: int = 10,
    padded: bool = False,
    per_token: float = 0.01,
) -> Lane:
    lane = Lane("m", LaneLimits(tokens, count, padded), CostModel(overhead=0.0, per_token=per_token))
    for item in items:
        lane.add(item)
    return lane


def take(lane: Lane, now: float = 0.0) -> Batch:
    lane.settle(now)
    return lane.take(now)


def take_all(lane: Lane, now: float = 0.0) -> list[Batch]:
    batches = []
    lane.settle(now)
    while not lane.is_empty:
        batches.append(lane.take(now))
        lane.settle(now)
    return batches


def sizes(batch: Batch) -> list[int]:
    return [item.size for item in batch.items]


def test_a_batch_is_sorted_by_length() -> None:
    assert [3, 5, 9] == sizes(take(lane_with([piece(9), piece(3), piece(5)])))


def test_a_piece_over_the_budget_goes_alone() -> None:
    lane = lane_with([piece(500), piece(3), piece(4)])
    assert [[500], [3, 4]] == [sizes(batch) for batch in take_all(lane)]


def test_the_most_urgent_piece_leaves_first() -> None:
    lane = lane_with([*(piece(50) for _ in range(9)), piece(90, deadline=1.0)])
    assert [90] == sizes(take(lane))


def test_the_rest_of_a_batch_is_like_its_first_piece() -> None:
    lane = lane_with([piece(10, deadline=900.0), piece(80), piece(12), piece(40), piece(11), piece(70)])
    assert [10, 11, 12, 40] == sizes(take(lane))


def test_a_pressing_piece_is_not_passed_over_for_likeness() -> None:
    """All three would miss their deadlines by waiting for the next batch but one."""
    lane = lane_with([piece(10, 1.5), piece(60, 1.6), piece(30, 1.7), piece(11), piece(12)])
    assert [10, 30, 60] == sizes(take(lane))


def test_a_batch_is_kept_short_enough_for_its_most_urgent_piece() -> None:
    """A burst behind a waiting piece must not make it late."""
    lane = lane_with([piece(10, 0.3), *(piece(10) for _ in range(8))])
    batch = take(lane)
    assert [10, 10, 10] == sizes(batch)
    assert batch.expected <= 0.3 + 1e-9


def test_a_backlog_leaves_in_whole_batches() -> None:
    """With too little time left for even half a batch, cutting it would only lengthen the queue."""
    lane = lane_with([piece(10, 0.3), *(piece(10) for _ in range(50))])
    assert 100 == take(lane).tokens


def test_overdue_and_pressing_pieces_take_turns() -> None:
    overdue = [piece(100, deadline=-float(age)) for age in range(4)]
    pressing = [piece(100, deadline=2.0 + age / 4) for age in range(4)]
    lane = lane_with([*overdue, *pressing])
    order = [batch.items[0].deadline for batch in take_all(lane)]
    assert [2.0, -3.0, 2.25, -2.0, 2.5, -1.0, 2.75, 0.0] == order


def test_a_backlog_on_the_same_lane_does_not_make_live_pieces_late() -> None:
    """Two streams share the model: one is replayed and hours late, the other is live."""
    lane = lane_with(piece(50, -3600.0 + age) for age in range(1000))
    now, late = 0.0, 0
    for _ in range(200):
        lane.add(piece(20, now + 3.5))
        batch = take(lane, now)
        now += batch.expected
        late += sum(0.0 < item.deadline < now for item in batch.items)
    assert 0 == late
    assert lane.items < 1000 - 200


def test_the_oldest_overdue_piece_leaves_at_its_turn_whatever_its_length() -> None:
    oldest = piece(100, deadline=-9.0)
    lane = lane_with([oldest, *(piece(10, deadline=-1.0) for _ in range(50))])
    assert (oldest,) == take(lane).items


def test_a_piece_whose_deadline_moved_forward_leaves_earlier() -> None:
    late = piece(100)
    lane = lane_with([piece(100, 900.0), late])
    lane.hasten(late, 5.0)
    assert [[5.0], [900.0]] == [[item.deadline for item in batch.items] for batch in take_all(lane)]
    assert (0, 0) == (lane.items, lane.tokens)


def test_a_piece_whose_deadline_moved_forward_leaves_once() -> None:
    lane = lane_with([first := piece(10, 900.0), second := piece(20, 901.0)])
    lane.hasten(second, 899.0)
    assert (first, second) == take(lane).items
    assert (0, 0) == (lane.items, lane.tokens)


def test_hopeless_is_what_cannot_be_committed_in_time_beyond_the_next_batch() -> None:
    """The most urgent first; what the next batch has room for saves nobody any time."""
    pieces = [piece(40, deadline) for deadline in (1.0, 1.1, 1.2, 1.3, 9.0)]
    lane = lane_with(pieces, tokens=100)
    assert [] == lane.hopeless(0.5, lambda _: True)

    lane.delay.observe(0.8)
    assert pieces[:3] == lane.hopeless(0.5, lambda _: True)
    assert [pieces[1], pieces[2], pieces[3]] == lane.hopeless(0.5, lambda item: item is not pieces[0])
    assert [] == lane_with(pieces[:2], tokens=100).hopeless(0.5, lambda _: True)


def test_a_piece_that_nobody_waits_for_does_not_run() -> None:
    lane = lane_with([])
    gone, kept = piece(10), piece(20)
    lane.add(gone)
    lane.add(kept)
    lane.discard(gone)
    assert (1, 20) == (lane.items, lane.tokens)
    assert [(kept,)] == [batch.items for batch in take_all(lane)]


def test_parts_of_a_failed_batch_go_first_and_by_themselves() -> None:
    lane = lane_with([piece(1, deadline=0.5), piece(2)])
    lane.add_parts([[piece(30), piece(31)], [piece(32)]])
    assert [[30, 31], [32], [1, 2]] == [sizes(batch) for batch in take_all(lane)]


def test_a_part_over_a_shrunken_budget_is_cut() -> None:
    lane = lane_with([])
    lane.budget.shrink(100)
    lane.add_parts([[piece(30), piece(10), piece(30)]])
    assert [[10, 30], [30]] == [sizes(batch) for batch in take_all(lane)]


def test_forgotten_pieces_leave_their_parts() -> None:
    lane = lane_with([])
    first, second, third = piece(1), piece(2), piece(3)
    lane.add_parts([[first], [second, third]])
    lane.discard(first)
    lane.discard(second)
    assert [[3]] == [sizes(batch) for batch in take_all(lane)]


def test_a_piece_at_rest_runs_alone_and_not_before_its_time() -> None:
    lane = lane_with([piece(1)])
    lane.rest(piece(2), until=5.0)
    assert [[1]] == [sizes(batch) for batch in take_all(lane, now=4.9)]
    assert 5.0 == lane.wakes
    lane.add(piece(3))
    assert [[2], [3]] == [sizes(batch) for batch in take_all(lane, now=5.0)]


PIECES = st.lists(st.tuples(st.integers(1, 150), st.floats(-1, 5)), max_size=60)


@settings(max_examples=60)
@given(pieces=PIECES, padded=st.booleans(), shrinks=st.integers(0, 3), now=st.floats(-2, 6))
def test_no_limit_is_exceeded_and_every_piece_leaves_once(
    pieces: list[tuple[int, float]],
    padded: bool,  # noqa: FBT001 - drawn by hypothesis
    shrinks: int,
    now: float,
) -> None:
    items = [piece(size, deadline) for size, deadline in pieces]
    lane = lane_with(items, padded=padded)
    for _ in range(shrinks):
        lane.budget.shrink(100)
    batches = take_all(lane, now)
    for batch in batches:
        tokens = sizes(batch)
        cost = max(tokens) * len(tokens) if padded else sum(tokens)
        assert cost == batch.tokens
        assert len(tokens) == 1 or cost <= lane.budget.current
        assert len(tokens) <= 10
    left = [item for batch in batches for item in batch.items]
    assert len(left) == len(items)
    assert set(left) == set(items)
    assert (0, 0) == (lane.items, lane.tokens)


@settings(max_examples=60)
@given(pieces=st.lists(st.tuples(st.integers(1, 150), st.floats(0, 5)), min_size=1, max_size=60))
def test_without_a_backlog_nobody_is_late_for_company(pieces: list[tuple[int, float]]) -> None:
    """The most urgent piece that would be on time alone is on time in its batch."""
    items = [piece(size, size * 0.01 + slack) for size, slack in pieces]
    lane = lane_with(items, tokens=100_000, count=1000)
    urgent = min(items, key=lambda item: item.deadline)
    batch = take(lane)
    assert urgent in batch.items
    assert batch.expected <= urgent.deadline + 1e-9
