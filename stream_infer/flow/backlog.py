"""How far behind a stream is: what its records, tokens and seconds of delay add up to."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from stream_infer.flow.pressure import Load


@dataclass(frozen=True, slots=True)
class Share:
    """One partition's part: what is in flight, its oldest timestamp, and how many records wait unfetched."""

    load: Load
    oldest_ms: int | None
    unfetched: int


@dataclass(frozen=True, slots=True)
class Backlog:
    """What is not committed yet: unfetched records and those in flight."""

    records: int = 0
    tokens: int = 0
    seconds: float = 0.0


def backlog(shares: Iterable[Share], wall_ms: int) -> Backlog:
    """Return the backlog of a stream's partitions at `wall_ms` on the wall clock.

    Unfetched records are taken to be as long as those in flight. The seconds are the age of the
    oldest record in flight, which in its partition is older than any unfetched one; a timestamp that
    is missing or in the future counts as now, as it does for deadlines.
    """
    known = list(shares)
    records = sum(share.load.records for share in known)
    tokens = sum(share.load.tokens for share in known)
    unfetched = sum(share.unfetched for share in known)
    ages_ms = [
        wall_ms - share.oldest_ms for share in known if share.oldest_ms is not None and share.oldest_ms >= 0
    ]
    return Backlog(
        records + unfetched,
        tokens + (unfetched * tokens // records if records else 0),
        max([0, *ages_ms]) / 1000,
    )
