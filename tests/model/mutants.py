"""Broken variants of the product's rules, each of which the search must catch.

A rule whose mutant is not caught is one that the model does not check.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from stream_infer.bus.batches import OutRecord
from stream_infer.bus.offsets import Committed
from stream_infer.bus.transactions import Session, TransactionalProducer
from stream_infer.errors import BusError, PartitionLostError
from stream_infer.flow import partition as partition_module
from stream_infer.flow.offsets import OffsetTracker, parse_metadata
from stream_infer.flow.ordering import OrderGate
from stream_infer.flow.partition import InputPartition, Publication
from stream_infer.schemas import Outcome, Partition, Record
from stream_infer.service import intake, partitions
from stream_infer.service.intake import Intake
from stream_infer.service.partitions import PartitionOwner
from tests.model.simulated_worker import Parts


class ReadsBeforeFencing(TransactionalProducer):
    """Reads the position while the owner of before can still move it."""

    async def open(self) -> Committed:
        """Read, then start."""
        await self.close()
        committed = (await self._offsets.read([self._partition]))[self._partition]
        self._session = await self._start(self._connection, transactional_id=self._identity(), batch_bytes=1)
        self._committed = committed
        return committed

    def _identity(self) -> str:
        return f"{self._group}.{self._partition.topic}.{self._partition.partition}"


class FencesNobody(TransactionalProducer):
    """Has an id of its own instead of the partition's."""

    async def open(self) -> Committed:
        """Start under a name that no other producer has."""
        group = self._group
        self._group = f"{id(self)}"
        try:
            return await super().open()
        finally:
            self._group = group


class ResendsAfterAFence(TransactionalProducer):
    """Takes a fence for a failure like any other."""

    async def publish(self, records: Sequence[OutRecord], offset: int, metadata: str) -> None:
        """Publish again what was fenced."""
        try:
            await super().publish(records, offset, metadata)
        except PartitionLostError:
            await self.open()
            await super().publish(records, offset, metadata)


class ResendsWhereThePositionHasMoved(TransactionalProducer):
    """Goes on though someone else has moved the position."""

    async def _reopen(self, target: Committed) -> bool:
        return await self.open() == target


class TakesTheUnknownForCommitted(TransactionalProducer):
    """Does not ask what became of a transaction whose answer was lost."""

    async def _recover(self, target: Committed, error: BaseException) -> None:  # noqa: ARG002 - as below
        if not isinstance(error, BusError) or isinstance(error, PartitionLostError):
            raise error
        await self.open()


class TakesTheUnknownForAborted(TransactionalProducer):
    """Publishes again whatever the answer was that was lost."""

    async def _reopen(self, target: Committed) -> bool:  # noqa: ARG002 - that is what is wrong
        await self.open()
        self._committed = Committed()
        return False


class CommitsThePositionOutside(TransactionalProducer):
    """Commits the position by itself, once the records are committed."""

    async def _transact(self, session: Session, records: Sequence[OutRecord], target: Committed) -> None:
        await session.send(records, 0)
        await session.confirm()
        await session.commit()
        await _plainly(session, self._partition, target)


class CommitsThePositionFirst(TransactionalProducer):
    """Commits the position by itself, before the records."""

    async def _transact(self, session: Session, records: Sequence[OutRecord], target: Committed) -> None:
        await _plainly(session, self._partition, target)
        await session.send(records, 0)
        await session.confirm()
        await session.commit()


class LeavesThePositionOut(TransactionalProducer):
    """Commits the records alone."""

    async def _transact(self, session: Session, records: Sequence[OutRecord], target: Committed) -> None:  # noqa: ARG002 - that is what is wrong
        await session.send(records, 0)
        await session.confirm()
        await session.commit()


class DoesNotConfirm(TransactionalProducer):
    """Commits before the broker has the records."""

    async def _transact(self, session: Session, records: Sequence[OutRecord], target: Committed) -> None:
        await session.send(records, 0)
        await session.add_position(self._group, self._partition, target)
        await session.commit()


class PublishesTwoAtOnce(PartitionOwner):
    """Begins the next transaction while one is open."""

    async def _publish(self, state: InputPartition, publication: Publication) -> None:
        state._open = None
        publishing = asyncio.get_running_loop().create_task(super()._publish(state, publication))
        publishing.add_done_callback(lambda done: None if done.cancelled() else done.exception())
        await asyncio.sleep(0)


class ForgetsWhatWasAborted(PartitionOwner):
    """Counts a publication as published though its transaction was aborted."""

    async def _transact(self, records: Sequence[OutRecord], publication: Publication) -> None:
        try:
            await super()._transact(records, publication)
        except PartitionLostError:
            raise
        except BusError:
            return


class KeepsALostPartition(PartitionOwner):
    """Goes on with what it had in hand when the partition was lost."""

    _kept: InputPartition | None = None

    def _forget(self) -> None:
        self._kept = self._state or self._kept
        super()._forget()

    async def _own(self) -> None:
        kept = self._kept
        if kept is None:
            await super()._own()
            return
        await self._producer.open()
        await self._begin(self.partition, kept.position)
        self._state = kept
        while (publication := kept._open or kept.take_publishable(10)) is not None:
            await self._publish(kept, publication)
        await asyncio.Event().wait()


class LetsRecordsInTooSoon(PartitionOwner):
    """Takes records in before the flow is at the committed offset."""

    async def _own(self) -> None:
        committed = await self._producer.open()
        start = committed.offset or 0
        done = parse_metadata(start, committed.metadata)
        state = self._state = InputPartition(start, done, self._ordering)
        await self._begin(self.partition, committed.offset)
        while True:
            while (publication := state.take_publishable(10)) is not None:
                await self._publish(state, publication)
            self._changed.clear()
            await self._changed.wait()


class AdmitsForTheNextTenure(Intake):
    """Takes records in that were fetched for a tenure that has ended."""

    async def admit(self, fetched: Mapping[Partition, Sequence[Record]]) -> None:
        """Ask nothing."""
        for partition, records in fetched.items():
            for record in records:
                if partition in self._owners:
                    self._admit_some(self._owners[partition], [record])
                await vars(intake)["asyncio"].sleep(0)  # where a turn is a step


class SaysNothingAboveThePosition(OffsetTracker):
    """Commits what is above the prefix without saying so."""

    __slots__ = ()

    def metadata(self) -> str:
        """Return nothing."""
        return ""


class PassesWhatIsNotDone(OffsetTracker):
    """Moves the position behind the last offset that is done."""

    __slots__ = ()

    def finish(self, offset: int) -> None:
        """Finish all that is below, too."""
        super().finish(offset)
        self.position = max(self.position, offset + 1)

    def metadata(self) -> str:
        """Return nothing: there is nothing above."""
        return ""


class ForgetsOldRuns(OffsetTracker):
    """Skips what was done before a restart, but leaves it out of its own commits."""

    __slots__ = ()

    def metadata(self) -> str:
        """Write down what was finished since the restart."""
        kept, self._kept = self._kept, type(self._kept)()
        try:
            return super().metadata()
        finally:
            self._kept = kept


class KnowsNoLimit(OffsetTracker):
    """Never finds the metadata full."""

    __slots__ = ()

    def fits(self, offset: int) -> bool:  # noqa: ARG002 - that is what is wrong
        """Return that there is room."""
        return True


class IgnoresKeys(OrderGate):
    """Lets every outcome out at once."""

    __slots__ = ()

    def finish(self, outcome: Outcome) -> list[Outcome]:
        """Return it."""
        return [outcome]


class ReleasesOutOfTurn(OrderGate):
    """Lets those that waited out before the one that they waited for."""

    __slots__ = ()

    def finish(self, outcome: Outcome) -> list[Outcome]:
        """Return them the wrong way round."""
        return super().finish(outcome)[::-1]


class TakesAnyThatFits(InputPartition):
    """Passes over outcomes that the metadata has no room for, though others wait behind them."""

    def _collect_leading(self, limit: int) -> Sequence[Outcome]:
        return [self._finish(self._publishable.pop()) for _ in range(min(limit, 1))]


def producer(broken: type[TransactionalProducer]) -> Parts:
    """Return the product with a broken producer."""
    return Parts(producer=broken)


def owner(broken: type[PartitionOwner]) -> Parts:
    """Return the product with a broken owner."""
    return Parts(owner=broken)


def tracker(broken: type[OffsetTracker]) -> Parts:
    """Return the product with a broken tracker."""
    return Parts(patches=((partition_module, "OffsetTracker", broken),))


def gate(broken: type[OrderGate]) -> Parts:
    """Return the product with a broken gate."""
    return Parts(patches=((partition_module, "OrderGate", broken),))


async def _plainly(session: Any, partition: Partition, target: Committed) -> None:
    await session.commit_position(partition, target)


MUTANTS: Mapping[str, tuple[str, Parts]] = {
    "the position is read before the fence": ("zombie", producer(ReadsBeforeFencing)),
    "every process has a transactional id of its own": ("zombie", producer(FencesNobody)),
    "what was fenced is sent again": ("zombie", producer(ResendsAfterAFence)),
    "what another owner has overtaken is sent again": (
        "late answers",
        producer(ResendsWhereThePositionHasMoved),
    ),
    "an unknown commit counts as committed": ("failures", producer(TakesTheUnknownForCommitted)),
    "an unknown commit counts as aborted": ("failures", producer(TakesTheUnknownForAborted)),
    "the position is committed after the transaction": ("moves", producer(CommitsThePositionOutside)),
    "the position is committed before the transaction": ("moves", producer(CommitsThePositionFirst)),
    "the position is left out": ("moves", producer(LeavesThePositionOut)),
    "what the broker does not have yet is committed": ("moves", producer(DoesNotConfirm)),
    "two transactions are open at once": ("moves", owner(PublishesTwoAtOnce)),
    "what was aborted is forgotten": ("failures", owner(ForgetsWhatWasAborted)),
    "a lost partition is gone on with": ("zombie", owner(KeepsALostPartition)),
    "records are admitted before the flow begins anew": ("expiry", owner(LetsRecordsInTooSoon)),
    "records are admitted for the next tenure": ("turns", Parts(intake=AdmitsForTheNextTenure)),
    "the engine goes on with a lost partition": ("expiry", Parts(forgets=False)),
    "metadata says nothing": ("moves", tracker(SaysNothingAboveThePosition)),
    "metadata is not read": ("moves", Parts(patches=((partitions, "parse_metadata", lambda *_: ()),))),
    "old metadata is not written again": ("moves", tracker(ForgetsOldRuns)),
    "the position passes what is not done": ("moves", tracker(PassesWhatIsNotDone)),
    "metadata has no limit": ("little metadata", tracker(KnowsNoLimit)),
    "full metadata is written nevertheless": (
        "little metadata",
        Parts(patches=((partitions, "InputPartition", TakesAnyThatFits),)),
    ),
    "keys are ignored": ("failures", gate(IgnoresKeys)),
    "those that waited go first": ("failures", gate(ReleasesOutOfTurn)),
}
"""Every mutant by what is wrong with it, with the scenario in which it is looked for."""
