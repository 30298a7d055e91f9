"""What a bus keeps to, the simulated one like the real ones: fencing, and what appears when."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Protocol

import pytest

from stream_infer.bus.batches import OutRecord
from stream_infer.bus.offsets import Committed
from stream_infer.bus.transactions import Session
from stream_infer.errors import PartitionLostError
from stream_infer.schemas import Partition


class Bus(Protocol):
    """A bus with an input partition, an output topic and a group."""

    partition: Partition
    topic: str
    group: str

    async def start(self) -> Session:
        """Return a new session of the one transactional id."""
        ...

    async def committed(self) -> Committed:
        """Return the group's position."""
        ...

    async def values(self) -> list[bytes | None]:
        """Return what readers of committed records see."""
        ...


async def write(bus: Bus, session: Session, value: bytes, position: Committed) -> None:
    """Do all of a transaction but its commit."""
    await session.send([OutRecord(bus.topic, b"key", value)], 0)
    await session.add_position(bus.group, bus.partition, position)
    await session.confirm()


async def records_and_position_appear_with_the_commit(bus: Bus) -> None:
    session = await bus.start()
    await write(bus, session, b"once", Committed(3, "above"))
    assert Committed() == await bus.committed()
    assert [] == await bus.values()
    await session.commit()
    assert [b"once"] == await bus.values()
    await session.stop()
    heir = await bus.start()
    assert Committed(3, "above") == await bus.committed()
    await heir.stop()


async def a_new_session_aborts_what_is_open(bus: Bus) -> None:
    zombie = await bus.start()
    await write(bus, zombie, b"never", Committed(1))
    heir = await bus.start()
    await write(bus, heir, b"heir", Committed(2))
    await heir.commit()
    assert [b"heir"] == await bus.values()
    assert Committed(2) == await bus.committed()
    await zombie.stop()
    await heir.stop()


async def a_fenced_session_can_neither_commit_nor_write(bus: Bus) -> None:
    committing, writing = await bus.start(), None
    await write(bus, committing, b"never", Committed(1))
    writing = await bus.start()
    with pytest.raises(PartitionLostError):
        await committing.commit()
    heir = await bus.start()
    with pytest.raises(PartitionLostError):
        await write(bus, writing, b"neither", Committed(2))
    for session in (committing, writing, heir):
        await session.stop()
    assert [] == await bus.values()
    assert Committed() == await bus.committed()


CHECKS: tuple[Callable[[Bus], Awaitable[None]], ...] = (
    records_and_position_appear_with_the_commit,
    a_new_session_aborts_what_is_open,
    a_fenced_session_can_neither_commit_nor_write,
)
