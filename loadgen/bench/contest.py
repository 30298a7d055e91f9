"""A contest: contenders that do one job on one set of texts, in turn, and the rows that come of it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from statistics import median
from typing import Any, Final

from loadgen.bench.contender import Contender, ContenderError, ContenderProcess
from loadgen.bench.rounds import Tally, compete
from loadgen.bench.rows import Measure, Row, compare, not_measured
from loadgen.bench.workshop import Workshop

SAMPLE: Final = 128
"""Texts of the first run, whose outputs are looked at and whose time does not count."""

Check = Callable[[Any], str]
"""Returns what is wrong with a contender's outputs for the sample, or nothing."""


class GarbageError(ContenderError):
    """A contender's outputs are wrong, so its speed is worth nothing."""


@dataclass(frozen=True, slots=True)
class Duel:
    """A row of a contest: ours against the best of some peers."""

    key: str
    peers: tuple[Contender, ...]


@dataclass(frozen=True, slots=True)
class Contest:
    """One job, measured in items a second over all texts, or, `alone`, as the median of one text's time."""

    duels: tuple[Duel, ...]
    ours: Contender
    texts: Sequence[str]
    measure: Measure
    check: Check
    alone: bool = False
    sample: int = SAMPLE
    remark: Callable[[Mapping[str, Any]], str] = field(default=lambda _: "")
    """Returns what a row's note says of the sample's outputs, by contender."""

    def rows(self, asked: Collection[str], workshop: Workshop) -> Iterator[Row]:
        """Hold the contest for the rows that are asked for."""
        duels = [duel for duel in self.duels if duel.key in asked]
        contenders = {self.ours.name: self.ours}
        contenders |= {peer.name: peer for duel in duels for peer in duel.peers}
        outputs: dict[str, Any] = {}
        out: dict[str, ContenderError] = {}
        with ExitStack() as stack:
            turns = {}
            for name, contender in contenders.items():
                try:
                    process = workshop.start(contender, stack)
                    outputs[name] = self._warm_up(name, process)
                    turns[name] = partial(self._turn, process)
                except ContenderError as error:
                    out[name] = error
            tally = compete(turns, workshop.rounds, workshop.show)
        tally.out.update(out)
        for duel in duels:
            yield self._row(duel, tally, outputs)

    def _warm_up(self, name: str, process: ContenderProcess) -> Any:
        outputs = process.run(self.texts[: self.sample]).outputs
        if wrong := self.check(outputs):
            raise GarbageError(f"{name} gives garbage: {wrong}")
        return outputs

    def _turn(self, process: ContenderProcess) -> float:
        seconds = process.run(self.texts, alone=self.alone).seconds
        return median(seconds) * 1000 if self.alone else len(self.texts) / sum(seconds)

    def _row(self, duel: Duel, tally: Tally, outputs: Mapping[str, Any]) -> Row:
        names = [peer.name for peer in duel.peers]
        missing = {name: str(tally.out[name]) for name in (self.ours.name, *names) if name in tally.out}
        is_fault = any(isinstance(tally.out[name], GarbageError) for name in missing)
        peers = {name: tally.figures[name] for name in names if name in tally.figures}
        if self.ours.name in missing or not peers or is_fault:
            why = "; ".join(missing.values())
            return not_measured(duel.key, why, is_fault=is_fault or self.ours.name in missing)
        shown = {name: outputs[name] for name in (self.ours.name, *peers)}
        remarks = [*(f"not measured: {why}" for why in missing.values()), self.remark(shown)]
        note = "; ".join(filter(None, remarks))
        return compare(duel.key, self.measure, tally.figures[self.ours.name], peers, note=note)
