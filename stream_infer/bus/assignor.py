"""Who of the group gets which partitions: in turn, to the members in the order of their names.

aiokafka's own orders them by the ids that the broker gives, and a member that comes back gets another. If it
deals the partitions out itself then, and a broker lets the others go on meanwhile, as static membership is
there for, some partitions have two owners and some have none.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from aiokafka.coordinator.assignors.roundrobin import RoundRobinPartitionAssignor
from aiokafka.coordinator.protocol import ConsumerProtocolMemberMetadata


class NamedAssignor(RoundRobinPartitionAssignor):  # type: ignore[misc] # aiokafka publishes no types
    """Deals out as the other does whose name it has; members tell each other their instance ids.

    Those without one come first, in the order of what the broker calls them.
    """

    def __init__(self, instance_id: str | None) -> None:
        self._name = (instance_id or "").encode()

    def metadata(self, topics: Iterable[str]) -> Any:
        """Return what the member that deals out learns of this one."""
        return ConsumerProtocolMemberMetadata(self.version, list(topics), self._name)

    def assign(self, cluster: Any, members: Mapping[str, Any]) -> dict[str, Any]:
        """Return what each member gets."""
        # Hexadecimal, since other clients put any bytes there, and in the order of what it stands for.
        names = {f"{(each.user_data or b'').hex()}/{member}": member for member, each in members.items()}
        dealt = super().assign(cluster, {name: members[member] for name, member in names.items()})
        return {names[name]: part for name, part in dealt.items()}
