"""Rounds: every contender once a round, in an order that moves on, so that none has the best place."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from loadgen.bench.contender import ContenderError

Turn = Callable[[], float]
"""A contender's turn; returns its figure."""


@dataclass(slots=True)
class Tally:
    """Each contender's figure by round, and why those who are out are out."""

    figures: dict[str, list[float]] = field(default_factory=dict)
    out: dict[str, ContenderError] = field(default_factory=dict)


def turns(names: Sequence[str], rounds: int) -> Iterator[tuple[int, str]]:
    """Yield each round's number and who is next in it: A B C, then B C A, then C A B."""
    for number in range(rounds if names else 0):
        start = number % len(names)
        yield from ((number, name) for name in (*names[start:], *names[:start]))


def compete(contenders: Mapping[str, Turn], rounds: int, show: Callable[[str], None]) -> Tally:
    """Give every contender its turn in every round; who fails once is out, and the others go on."""
    tally = Tally({name: [] for name in contenders})
    for number, name in turns(list(contenders), rounds):
        if name in tally.out:
            continue
        show(f"round {number + 1} of {rounds}, {name}")
        try:
            tally.figures[name].append(contenders[name]())
        except ContenderError as error:
            tally.out[name] = error
            del tally.figures[name]
    return tally
