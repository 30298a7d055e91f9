"""Real texts of mixed lengths, as a service gets them: a few long ones among many short ones."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from typing import Final

from loadgen.texts import load_bodies

COUNT: Final = 2_000
MEDIAN: Final = 20
MOST: Final = 256
LEAST: Final = 5
SIGMA: Final = math.log(MOST / MEDIAN) / 3
"""The logarithm's standard deviation: the longest text is three of them from the median."""
SPECIAL: Final = 2
"""The tokens around every text."""

WordSizes = Callable[[Sequence[str]], Sequence[int]]
"""Returns the tokens of each word, special tokens not included."""


def mixed_texts(word_sizes: WordSizes, count: int = COUNT, seed: int = 7) -> list[str]:
    """Return different texts whose lengths in tokens are lognormal about `MEDIAN`, up to `MOST`.

    Stretches of whole words from the language reference, the same ones for a seed.
    """
    draw = random.Random(seed)
    bodies = [str(body["text"]).split() for body in load_bodies("classify", seed)]
    words = sorted(set(chain.from_iterable(bodies)))
    sizes = dict(zip(words, word_sizes(words), strict=True))
    found: dict[str, None] = {}
    while len(found) < count:
        wanted = draw_length(draw)
        before = len(found)
        while len(found) == before:
            found[_stretch(bodies, draw.randrange(len(bodies)), wanted, sizes)] = None
    return list(found)


def draw_length(draw: random.Random) -> int:
    """Return a length in tokens."""
    while True:
        length = round(draw.lognormvariate(math.log(MEDIAN), SIGMA))
        if LEAST <= length <= MOST:
            return length


def _stretch(bodies: Sequence[Sequence[str]], start: int, wanted: int, sizes: Mapping[str, int]) -> str:
    """Return the words from a body's beginning on, and of those behind it, nearest to `wanted` tokens."""
    taken: list[str] = []
    missing = wanted - SPECIAL
    for word in chain.from_iterable([*bodies[start:], *bodies[:start]]):
        if taken and abs(missing - sizes[word]) >= abs(missing):
            break
        taken.append(word)
        missing -= sizes[word]
    return " ".join(taken)
