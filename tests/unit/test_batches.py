"""Records find their partition as any Kafka client would send them."""

from aiokafka.partitioner import murmur2
from hypothesis import given
from hypothesis import strategies as st

from stream_infer.bus.batches import OutRecord, group_by_target, key_hash


@given(st.binary(max_size=70))
def test_keys_are_hashed_as_kafka_hashes_them(key: bytes) -> None:
    assert murmur2(key) & 0x7FFFFFFF == key_hash(key)


@given(
    keys=st.lists(st.none() | st.binary(max_size=3)),
    counts=st.fixed_dictionaries({"a": st.integers(1, 5), "b": st.integers(1, 5)}),
    keyless=st.integers(0, 100),
)
def test_every_record_has_one_target_and_keeps_its_order(
    keys: list[bytes | None], counts: dict[str, int], keyless: int
) -> None:
    records = [OutRecord("ab"[index % 2], key, b"") for index, key in enumerate(keys)]

    targets = group_by_target(records, counts, keyless)

    assert list(range(len(records))) == sorted(index for indexes in targets.values() for index in indexes)
    for (topic, partition), indexes in targets.items():
        assert sorted(indexes) == indexes
        assert 0 <= partition < counts[topic]
        for index in indexes:
            record = records[index]
            number = keyless if record.key is None else key_hash(record.key)
            assert (topic, partition) == (record.topic, number % counts[topic])


def test_a_record_that_names_its_partition_goes_there() -> None:
    """One beyond the topic's partitions, which a topic made anew can have fewer of, still goes somewhere."""
    records = [OutRecord("a", b"key", b"", partition=number) for number in (2, 0, 7)]

    assert {("a", 2): [0], ("a", 0): [1], ("a", 1): [2]} == group_by_target(records, {"a": 3}, keyless=1)
