"""Asking a worker's HTTP endpoints from outside: is it ready, and what does it count?"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from http import HTTPStatus

import aiohttp
from prometheus_client.parser import text_string_to_metric_families

from stream_infer.errors import ConfigError

Samples = Mapping[tuple[str, frozenset[tuple[str, str]]], float]
"""Values by the sample's name and its labels."""

_PAUSE_S = 0.1
_PATIENCE = aiohttp.ClientTimeout(total=5.0)


async def wait_until_ready(url: str, *, timeout: float) -> None:  # noqa: ASYNC109 - names the endpoint in its error
    """Return once `url`/ready says so.

    Raises:
        TimeoutError: it did not within `timeout` seconds; holds the last answer.
    """
    answer = "no answer"
    try:
        async with asyncio.timeout(timeout), aiohttp.ClientSession() as session:
            while True:
                try:
                    async with session.get(f"{url}/ready") as response:
                        if response.status == HTTPStatus.OK:
                            return
                        answer = await response.text()
                except aiohttp.ClientConnectionError:
                    pass
                await asyncio.sleep(_PAUSE_S)
    except TimeoutError as error:
        raise TimeoutError(f"{url} was not ready within {timeout:.0f} s: {answer}") from error


async def read_samples(url: str, token: str | None = None) -> Samples:
    """Return each sample of `url`/metrics by its name and labels; empty when unreachable.

    Raises:
        ConfigError: the worker asks for another token than `token`.
    """
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    try:
        async with (
            aiohttp.ClientSession(timeout=_PATIENCE) as session,
            session.get(f"{url}/metrics", headers=headers) as response,
        ):
            if response.status == HTTPStatus.UNAUTHORIZED:
                raise ConfigError(f"web.token: {url} asks for a token, and it is not this one")
            response.raise_for_status()
            text = await response.text()
    except (aiohttp.ClientError, TimeoutError):
        return {}
    return parse_samples(text)


def parse_samples(text: str) -> Samples:
    """Return the samples of an exposition by their names and labels."""
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


async def read_metrics(url: str, token: str | None = None) -> Mapping[str, float]:
    """Return each metric's samples added up over their labels, by sample name; empty when unreachable."""
    totals: dict[str, float] = {}
    for (name, _), value in (await read_samples(url, token)).items():
        totals[name] = totals.get(name, 0.0) + value
    return totals
