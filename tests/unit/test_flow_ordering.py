"""The gate: each order that was asked for is kept, and nothing waits for more than that."""

from hypothesis import given
from hypothesis import strategies as st

from stream_infer.flow.ordering import OrderGate
from stream_infer.schemas import Ordering, Outcome, Record, Result

KEYS = st.sampled_from([None, b"", b"a", b"b"])


def record(offset: int, key: bytes | None = None) -> Record:
    return Record("requests", 0, offset, 0, key, b"")


def outcome(of: Record) -> Result:
    return Result(of, of.position, "s", {}, "m")


def offsets(outcomes: list[Outcome]) -> list[int]:
    return [each.record.offset for each in outcomes]


def test_an_outcome_waits_for_the_one_before_it_with_its_key() -> None:
    gate = OrderGate(Ordering.KEY)
    records = [record(0, b"a"), record(1, b"b"), record(2, b"a")]
    for each in records:
        gate.admit(each)
    assert [] == gate.finish(outcome(records[2]))
    assert [1] == offsets(gate.finish(outcome(records[1])))
    assert [0, 2] == offsets(gate.finish(outcome(records[0])))


@given(keys=st.lists(KEYS, max_size=30), data=st.data(), ordering=st.sampled_from(Ordering))
def test_order_is_kept_and_nothing_is_lost(
    keys: list[bytes | None], data: st.DataObject, ordering: Ordering
) -> None:
    gate = OrderGate(ordering)
    records = [record(offset, key) for offset, key in enumerate(keys)]
    for each in records:
        gate.admit(each)
    released: list[int] = []
    done: set[int] = set()
    for each in data.draw(st.permutations(records)):
        done.add(each.offset)
        released += offsets(gate.finish(outcome(each)))
        assert set(released) == {o.offset for o in records if is_free(o, records, done, ordering)}
    assert sorted(released) == list(range(len(keys)))
    for key in set(keys) - {None} if ordering is Ordering.KEY else set():
        of_key = [offset for offset in released if keys[offset] == key]
        assert of_key == sorted(of_key)
    if ordering is Ordering.PARTITION:
        assert released == sorted(released)


def is_free(one: Record, records: list[Record], done: set[int], ordering: Ordering) -> bool:
    """Whether the record, and all before it in its order, are done."""
    before = [each for each in records if each.offset <= one.offset]
    if ordering is Ordering.KEY:
        before = [each for each in before if each.key == one.key] if one.key is not None else [one]
    elif ordering is Ordering.NONE:
        before = [one]
    return all(each.offset in done for each in before)
