"""What the metrics read of the partitions that a worker owns, by stream."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from time import time

from stream_infer.flow.backlog import Backlog, Share, backlog
from stream_infer.metrics import Metrics
from stream_infer.schemas import Partition
from stream_infer.service.partitions import PartitionOwner

Figure = Callable[[Sequence[PartitionOwner]], float]


class PartitionGauges:
    """Reads partitions when the metrics are asked for; `lag` says how many records each has waiting."""

    def __init__(
        self,
        owners: Mapping[Partition, PartitionOwner],
        stream_of: Callable[[str], str],
        lag: Callable[[], Mapping[Partition, int]],
    ) -> None:
        """`owners` changes as partitions come and go; `stream_of` names the stream of an input topic."""
        self._owners = owners
        self._stream_of = stream_of
        self._lag = lag

    def show(self, metrics: Metrics) -> None:
        """Let the metrics read."""
        figures: dict[str, Figure] = {
            "assigned_partitions": len,
            "in_flight_records": lambda owners: sum(owner.load.records for owner in owners),
            "buffered_tokens": lambda owners: sum(owner.load.tokens for owner in owners),
            "lag_records": lambda owners: self._backlog(owners).records,
            "lag_tokens": lambda owners: self._backlog(owners).tokens,
            "lag_seconds": lambda owners: self._backlog(owners).seconds,
        }
        for name, figure in figures.items():
            metrics.read(name, lambda figure=figure: self._by_stream(figure))  # type: ignore[misc] # bound now

    def _by_stream(self, figure: Figure) -> dict[tuple[str, ...], float]:
        """Return a figure of each stream's partitions."""
        owners: defaultdict[str, list[PartitionOwner]] = defaultdict(list)
        for partition, owner in self._owners.items():
            owners[self._stream_of(partition.topic)].append(owner)
        return {(name,): figure(those) for name, those in owners.items()}

    def _backlog(self, owners: Sequence[PartitionOwner]) -> Backlog:
        lag = self._lag()
        shares = [Share(owner.load, owner.oldest_ms, lag.get(owner.partition, 0)) for owner in owners]
        return backlog(shares, int(time() * 1000))
