"""What the short commands do: one request and its result, and the topics."""

from __future__ import annotations

from stream_infer.bus.connection import connect, wait_until_reachable
from stream_infer.bus.topics import apply, check, specs_for
from stream_infer.client import Client, ClientRequest
from stream_infer.config import Settings
from stream_infer.errors import ConfigError
from stream_infer.schemas import Body, ResultBody
from stream_infer.service.broker import REACH_SECONDS


async def send_one(
    settings: Settings,
    body: Body,
    *,
    key: str | None,
    timeout: float,  # noqa: ASYNC109 - named in the error
    traceparent: str = "",
) -> ResultBody:
    """Return the result of one request to a running service, with its id.

    Raises:
        RequestFailedError: it ended as a dead letter.
        TimeoutError: nothing came back in time.
    """
    refuse_embedded(settings)
    await wait_until_reachable(connect(settings.kafka), REACH_SECONDS)
    request = ClientRequest(body, key.encode() if key is not None else None, traceparent=traceparent)
    async with Client(settings=settings.kafka, streams=settings.streams) as client:
        result = await client.ask(request, timeout=timeout)
    return {"id": result.id, **result.body}


async def apply_topics(settings: Settings) -> list[str]:
    """Create the missing topics and return their names."""
    refuse_embedded(settings)
    return await apply(connect(settings.kafka), specs_for(settings))


async def compare_topics(settings: Settings) -> list[str]:
    """Return how the broker's topics differ from what is declared, a line each."""
    refuse_embedded(settings)
    return [str(difference) for difference in await check(connect(settings.kafka), specs_for(settings))]


def refuse_embedded(settings: Settings) -> None:
    """Raise ConfigError where the broker would be one of this process, empty and soon gone."""
    if settings.kafka.is_embedded:
        raise ConfigError(
            "kafka.bootstrap_servers: an embedded broker lives within `serve`; name its address here"
        )
