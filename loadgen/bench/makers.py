"""What makes rows: the bench is a list of these."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass

from loadgen.bench.contender import ContenderError
from loadgen.bench.rows import Row, not_measured
from loadgen.bench.workshop import Workshop


@dataclass(frozen=True, slots=True)
class Maker:
    """Makes some rows; `make` yields those of `keys` that are asked for, which are some."""

    keys: tuple[str, ...]
    make: Callable[[Collection[str], Workshop], Iterator[Row]]


def make_rows(makers: Iterable[Maker], asked: Collection[str], workshop: Workshop) -> Iterator[Row]:
    """Yield the rows that are asked for, maker by maker; what a maker cannot make is a fault."""
    for maker in makers:
        missing = {key: None for key in maker.keys if key in asked}
        try:
            for row in maker.make(missing.keys(), workshop) if missing else ():
                missing.pop(row.key)
                yield row
        except ContenderError as error:
            yield from (not_measured(key, str(error), is_fault=True) for key in missing)
