"""What a worker's `/metrics` says, and what of it changed over a run; knows no metric by name."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import asdict, dataclass

import aiohttp
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from loadgen.gauges import Look, Samples, pick

TOKEN_VARIABLE = "LOADGEN_METRICS_TOKEN"  # noqa: S105 - the variable's name
"""What holds the token of a `/metrics` that asks for one: on the command line all could read it."""
TIMEOUT_SECONDS = 5.0
INTERVAL_SECONDS = 1.0
"""How often gauges are looked at during a run."""


@dataclass(frozen=True, slots=True)
class Scrape:
    """The samples of one look at `/metrics`, or why there are none."""

    samples: Samples
    fault: str = ""


@dataclass(frozen=True, slots=True)
class Change:
    """A counter or histogram over a run: how often it was counted, and of observations the mean."""

    name: str
    labels: str
    increase: float
    mean: float | None


async def scrape(url: str) -> Scrape:
    """Return what `url` says now; a worker that cannot be asked is a fault that is stated."""
    try:
        async with (
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=TIMEOUT_SECONDS)) as session,
            session.get(url, headers=authorization()) as response,
        ):
            response.raise_for_status()
            return Scrape(parse(await response.text()))
    except (TimeoutError, aiohttp.ClientError, ValueError, OSError) as error:
        return Scrape({}, f"{url}: {error or type(error).__name__}")


def parse(text: str) -> Samples:
    """Return the samples of a page in the exposition format, without buckets and creation times.

    Raises:
        ValueError: the page is none.
    """
    return {
        _name(sample): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if not sample.name.endswith(("_bucket", "_created"))
    }


def changes(start: Mapping[str, float], end: Mapping[str, float]) -> list[Change]:
    """Return what was counted between two looks: means of what has a sum and a count, and increases."""
    return sorted(_changes(start, end), key=lambda change: (change.name, change.labels))


@asynccontextmanager
async def watching(url: str | None) -> AsyncIterator[list[Look]]:
    """Give a list that grows by a look each second while the context lasts; it stays empty without a URL."""
    looks: list[Look] = []
    task = asyncio.create_task(_watch(url, looks)) if url else None
    try:
        yield looks
    finally:
        if task:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task


async def _watch(url: str, looks: list[Look]) -> None:
    """Look again and again; a look that a worker does not answer leaves a gap, and delays no other."""
    start = time.monotonic()
    while True:
        at = time.monotonic() - start
        looks.append(Look(round(at, 3), pick((await scrape(url)).samples)))
        await asyncio.sleep(INTERVAL_SECONDS - (time.monotonic() - start) % INTERVAL_SECONDS)


def as_dict(url: str, start: Scrape, end: Scrape, looks: Sequence[Look] = ()) -> dict[str, object]:
    """Return what was seen before, after and meanwhile, and the changes, as JSON has them."""
    found = [asdict(change) for change in changes(start.samples, end.samples)]
    gauges = [asdict(look) for look in looks]
    return {"url": url, "start": asdict(start), "end": asdict(end), "changes": found, "gauges": gauges}


def _changes(start: Mapping[str, float], end: Mapping[str, float]) -> Iterator[Change]:
    for full in end:
        name, brace, labels = full.partition("{")
        increase = end[full] - start.get(full, 0.0)
        if increase <= 0:
            continue
        if name.endswith("_count"):
            sums = f"{name.removesuffix('_count')}_sum{brace}{labels}"
            mean = (end.get(sums, 0.0) - start.get(sums, 0.0)) / increase
            yield Change(name.removesuffix("_count"), labels.removesuffix("}"), increase, mean)
        elif not name.endswith("_sum"):
            yield Change(name, labels.removesuffix("}"), increase, None)


def authorization() -> dict[str, str]:
    """Return the headers that a `/metrics` with a token asks for."""
    token = os.environ.get(TOKEN_VARIABLE)
    return {"Authorization": f"Bearer {token}"} if token else {}


def _name(sample: Sample) -> str:
    labels = ",".join(f'{name}="{value}"' for name, value in sorted(sample.labels.items()))
    return f"{sample.name}{{{labels}}}" if labels else sample.name
