"""The bench's rows: ours against a peer, and how they are written down."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

Samples = Sequence[float]
"""A contender's figure in each round."""


@dataclass(frozen=True, slots=True)
class Row:
    """One comparison; `ratio` above 1 always means that ours is better.

    `ours` and `peer` are medians over the rounds, `ratio` is the median of the rounds' ratios and
    `spread` their least and most. `note` is for a reader; what could not be measured has no figures
    and a note that says why. `is_fault` says that it is a fault, and not something that is missing.
    """

    key: str
    unit: str = ""
    ours: float | None = None
    peer: float | None = None
    peer_name: str = ""
    ratio: float | None = None
    rounds: int = 0
    spread: tuple[float, float] | None = None
    note: str = ""
    is_fault: bool = False


@dataclass(frozen=True, slots=True)
class Measure:
    """What a row's figures are: their unit, and whether more of it is better."""

    unit: str
    is_more_better: bool = True


def compare(
    key: str, measure: Measure, ours: Samples, peers: Mapping[str, Samples], *, note: str = ""
) -> Row:
    """Return the row of ours against the best of the peers, by their medians."""
    choose = max if measure.is_more_better else min
    best = choose(peers, key=lambda name: median(peers[name]))
    ratios = [_ratio(own, other, measure) for own, other in zip(ours, peers[best], strict=True)]
    return Row(
        key,
        measure.unit,
        ours=median(ours),
        peer=median(peers[best]),
        peer_name=best,
        ratio=median(ratios),
        rounds=len(ratios),
        spread=(min(ratios), max(ratios)),
        note=note,
    )


def _ratio(own: float, other: float, measure: Measure) -> float:
    return own / other if measure.is_more_better else other / own


def not_measured(key: str, why: str, *, is_fault: bool = False) -> Row:
    """Return a row that says why it has no figures."""
    return Row(key, note=f"not measured: {why}", is_fault=is_fault)


def as_document(
    rows: Iterable[Row], machine: Mapping[str, Any], versions: Mapping[str, str]
) -> dict[str, Any]:
    """Return what is written as JSON."""
    return {
        "rows": [_as_dict(row) for row in rows],
        "machine": dict(machine),
        "versions": dict(versions),
    }


def _as_dict(row: Row) -> dict[str, Any]:
    return {name: _rounded(value) for name, value in asdict(row).items()}


def _rounded(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_rounded(each) for each in value]
    return round(value, 4) if isinstance(value, float) else value


def as_table(rows: Iterable[Row]) -> str:
    """Return a Markdown table."""
    lines = ["| row | ours | peer | ratio | spread | |", "|---|---|---|---|---|---|"]
    lines += [f"| {' | '.join(_cells(row))} |" for row in rows]
    return "\n".join(lines)


def _cells(row: Row) -> list[str]:
    peer = " ".join(filter(None, [_figure(row.peer), row.peer_name]))
    ours = "" if row.ours is None else f"{_figure(row.ours)} {row.unit}"
    spread = " to ".join(map(_figure, row.spread)) if row.spread else ""
    return [f"`{row.key}`", ours, peer, _figure(row.ratio), spread, row.note]


def _figure(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"
