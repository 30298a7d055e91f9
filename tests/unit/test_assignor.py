"""Partitions go to members by their names, whatever the broker calls them."""

from __future__ import annotations

from typing import Any

from aiokafka.coordinator.protocol import ConsumerProtocol, ConsumerProtocolMemberMetadata
from hypothesis import given
from hypothesis import strategies as st

from stream_infer.bus.assignor import NamedAssignor

TOPICS = {"a": {0, 1, 2}, "b": {0, 1}}


class Cluster:
    """Knows the partitions of topics."""

    def partitions_for_topic(self, topic: str) -> set[int]:
        """Return them."""
        return TOPICS[topic]


def told(name: str | None) -> Any:
    """Return what a member tells of itself, as others read it."""
    return ConsumerProtocol.METADATA.decode(NamedAssignor(name).metadata(["a", "b"]).encode())


def dealt(members: dict[str, str | None]) -> dict[str, list[Any]]:
    """Return what each gets, by what the broker calls it."""
    found = NamedAssignor(None).assign(Cluster(), {each: told(name) for each, name in members.items()})
    return {member: part.partitions() for member, part in found.items()}


@given(st.permutations(["m-1", "m-2", "m-3"]))
def test_a_name_keeps_its_partitions_under_any_id(ids: list[str]) -> None:
    found = dealt(dict(zip(ids, ("first", "second", "third"), strict=True)))

    assert [[("a", 0), ("b", 0)], [("a", 1), ("b", 1)], [("a", 2)]] == [found[each] for each in ids]


@given(st.dictionaries(st.text(min_size=1), st.one_of(st.none(), st.text()), min_size=1, max_size=6))
def test_each_partition_has_one_owner(members: dict[str, str | None]) -> None:
    found = dealt(members)

    assert members.keys() == found.keys()
    assert [(topic, each) for topic in TOPICS for each in TOPICS[topic]] == sorted(
        partition for part in found.values() for partition in part
    )


def test_members_of_other_clients_are_dealt_to_as_well() -> None:
    """They tell nothing, or something else."""
    others = {
        "java": ConsumerProtocolMemberMetadata(0, ["a"], None),
        "sticky": ConsumerProtocolMemberMetadata(0, ["a"], b"\xff\x00"),
    }

    found = NamedAssignor("x").assign(Cluster(), {**others, "own": told("x")})

    assert {"java", "sticky", "own"} == found.keys()
    assert 5 == sum(len(part.partitions()) for part in found.values())
