"""Line charts as coordinates: what a template needs to draw them in SVG. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

WIDTH: Final = 480
HEIGHT: Final = 230
LEFT, RIGHT, TOP, BOTTOM = 52, 12, 12, 34
MOST_TICKS: Final = 6

Point = tuple[float, float | None]


@dataclass(frozen=True, slots=True)
class Series:
    """One line; where a value is None it is broken. `colour` and `dash` are numbers that a style names."""

    name: str
    points: Sequence[Point]
    colour: int = 0
    dash: int = 0


@dataclass(frozen=True, slots=True)
class Tick:
    """A mark on an axis and what it says."""

    at: float
    text: str


@dataclass(frozen=True, slots=True)
class Line:
    """A series as SVG has it: the points of each unbroken stretch."""

    name: str
    stretches: tuple[str, ...]
    colour: int
    dash: int


@dataclass(frozen=True, slots=True)
class Chart:
    """A chart that is ready to be drawn in a box of WIDTH by HEIGHT."""

    title: str
    x_label: str
    lines: tuple[Line, ...]
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]


def draw(title: str, x_label: str, series: Sequence[Series], x_ticks: Sequence[Tick] = ()) -> Chart:
    """Return the chart of the series, both axes from 0; `x_ticks` replace those of even steps."""
    values = [(x, y) for each in series for x, y in each.points if y is not None]
    widest = max([1.0, *(x for x, _ in values), *(tick.at for tick in x_ticks)])
    highest = max([y for _, y in values] or [0.0]) or 1.0
    across = [Tick(_across(tick.at, widest), tick.text) for tick in x_ticks or _ticks(widest)]
    return Chart(
        title,
        x_label,
        tuple(_line(each, widest, highest) for each in series),
        tuple(across),
        tuple(Tick(_up(tick.at, highest), tick.text) for tick in _ticks(highest)),
    )


def _ticks(end: float) -> list[Tick]:
    """Return marks from 0 to at most `end`, at steps of 1, 2 or 5 times a power of ten."""
    rough = end / MOST_TICKS
    magnitude = 10.0 ** math.floor(math.log10(rough))
    step = next(each * magnitude for each in (1, 2, 5, 10) if each * magnitude >= rough)
    return [Tick(number * step, f"{number * step:,.10g}") for number in range(int(end / step + 1e-9) + 1)]


def _line(series: Series, widest: float, highest: float) -> Line:
    stretches: list[list[str]] = [[]]
    for x, y in series.points:
        if y is None:
            stretches.append([])
        else:
            stretches[-1].append(f"{_across(x, widest):.1f},{_up(y, highest):.1f}")
    return Line(series.name, tuple(map(" ".join, filter(None, stretches))), series.colour, series.dash)


def _across(x: float, widest: float) -> float:
    return LEFT + (WIDTH - LEFT - RIGHT) * x / widest


def _up(y: float, highest: float) -> float:
    return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * y / highest
