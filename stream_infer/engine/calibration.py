"""How a model runs best here: the threads and the batch that a few measured runs speak for."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Final

SIZES: Final = (256, 512, 1024, 2048, 4096)
"""Tokens of the batches that are tried, smallest first."""
USUAL_SIZE: Final = 1024
"""Tokens of the batch on which numbers of threads are tried."""

_ROUNDS: Final = 2
_LONGEST: Final = 0.25
_WORTH: Final = 0.97


@dataclass(frozen=True, slots=True)
class Trial:
    """A batch that ran: its tokens, and the seconds that it took."""

    tokens: int
    seconds: float

    @property
    def rate(self) -> float:
        """Tokens a second."""
        return self.tokens / max(self.seconds, 1e-9)


@dataclass(frozen=True, slots=True)
class Calibration:
    """What was found: how many threads, how many tokens in a batch, and the runs that say so."""

    threads: int
    batch_tokens: int
    trials: tuple[Trial, ...]


Measure = Callable[[int, int], Awaitable[Trial]]
"""Runs a batch of about so many tokens on so many threads."""


async def calibrate(measure: Measure, max_threads: int) -> Calibration:
    """Try threads and sizes, and keep the least of each that is as fast as the best, within 3 %.

    1. One run to warm up. 2. Threads, all of them, half and so on, on batches of `USUAL_SIZE`.
    3. Sizes on the threads found, until twice the size would take longer than a quarter of a second, or
    more tokens bring nothing. Each is run twice and the faster run counts.
    """
    await measure(USUAL_SIZE, max_threads)
    threads = await _find_threads(measure, max_threads)
    trials: list[Trial] = []
    for size in SIZES:
        trials.append(await _best(measure, size, threads))
        if trials[-1].seconds > _LONGEST / 2 or _has_peaked(trials):
            break
    return Calibration(threads, _worthwhile_size(trials), tuple(trials))


def thread_choices(max_threads: int) -> list[int]:
    """Return the numbers of threads to try, fewest first: `max_threads`, halved down to one."""
    choices = [max_threads]
    while choices[-1] > 1:
        choices.append(choices[-1] // 2)
    return choices[::-1]


async def _find_threads(measure: Measure, max_threads: int) -> int:
    choices = thread_choices(max_threads)
    if len(choices) == 1:
        return max_threads
    rates = {threads: (await _best(measure, USUAL_SIZE, threads)).rate for threads in choices}
    fastest = max(rates.values())
    return next(threads for threads in choices if rates[threads] >= _WORTH * fastest)


async def _best(measure: Measure, tokens: int, threads: int) -> Trial:
    return max([await measure(tokens, threads) for _ in range(_ROUNDS)], key=attrgetter("rate"))


def _worthwhile_size(trials: Sequence[Trial]) -> int:
    """Return the least of the sizes tried that is worth it, and short enough for others not to wait long."""
    short = [trial for trial in trials if trial.seconds <= _LONGEST] or trials[:1]
    fastest = max(trial.rate for trial in short)
    sizes = zip(SIZES, short, strict=False)
    return next(size for size, trial in sizes if trial.rate >= _WORTH * fastest)


def _has_peaked(trials: list[Trial]) -> bool:
    """Whether the last two sizes were no faster than the one before them."""
    if len(trials) < 3:  # noqa: PLR2004 - three sizes make two steps
        return False
    before, *last = trials[-3:]
    return all(trial.rate < before.rate for trial in last)
