"""The demo: an embedded broker, both roles, sample events, and an audit of what came out."""

from __future__ import annotations

import asyncio
import json
import shutil
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from time import monotonic

from rich.console import Console
from rich.live import Live

from stream_infer.bus.client_codec import encode_document
from stream_infer.bus.connection import Connection, connect
from stream_infer.bus.embedded import EmbeddedBroker, free_port
from stream_infer.bus.publisher import Publisher
from stream_infer.bus.topics import apply, specs_for
from stream_infer.config import Settings
from stream_infer.config_loading import load_settings
from stream_infer.demo.children import run_role
from stream_infer.demo.events import DemoEvent, load_documents, load_events
from stream_infer.demo.tally import Tally
from stream_infer.demo.traffic import Traffic
from stream_infer.demo.view import LiveView
from stream_infer.retrieval.passages import split_document
from stream_infer.web.access import read_token
from stream_infer.web.probe import read_metrics, wait_until_ready

START_SECONDS = 120.0
REFRESH = 0.25
PASSAGES = "stream_infer_index_passages"


async def run_demo(events: int, *, as_json: bool, keep: bool) -> bool:
    """Run the demo, print its summary, and return whether every event ended exactly once.

    Raises:
        StreamInferError: a role ended early, or nothing could be started.
        TimeoutError: the service did not become ready.
    """
    directory = Path(tempfile.mkdtemp(prefix="stream-infer-demo-"))
    view = LiveView(Tally())
    # With --json the summary alone goes to stdout.
    console = Console(stderr=as_json)
    started = monotonic()
    try:
        with Live(view, console=console, refresh_per_second=1 / REFRESH):
            await _play(load_events(events), view, directory)
        view.phase = "finished"
    except Exception:
        keep = True  # The error names a log in there.
        raise
    finally:
        if keep:
            console.print(f"the broker's data and the logs are in {directory}")
        else:
            shutil.rmtree(directory, ignore_errors=True)
    summary = view.tally.summary(monotonic() - started)
    print(json.dumps(summary) if as_json else _in_words(view.tally, summary))  # noqa: T201 - the command's output
    return view.tally.is_balanced


async def _play(events: Sequence[DemoEvent], view: LiveView, directory: Path) -> None:
    """Set the stage, send the events, and wait until each has come back."""
    settings = load_settings(web={"port": free_port()})
    async with _stage(settings, view, directory) as (connection, url), asyncio.TaskGroup() as group:
        watching = group.create_task(_watch(view, url, read_token(settings.web)))
        await Traffic(settings, connection, view).run(events)
        watching.cancel()


@asynccontextmanager
async def _stage(
    settings: Settings, view: LiveView, directory: Path
) -> AsyncIterator[tuple[Connection, str]]:
    """Start the broker and both roles, publish the documents, and yield once they can be answered from."""
    url = f"http://127.0.0.1:{settings.web.port}"
    async with AsyncExitStack() as stack:
        view.phase = "starting the broker"
        broker = await stack.enter_async_context(EmbeddedBroker(directory / "broker"))
        connection = connect(settings.kafka, broker.bootstrap_servers)
        await apply(connection, specs_for(settings))
        environment = {
            "STREAM_INFER__KAFKA__BOOTSTRAP_SERVERS": broker.bootstrap_servers,
            "STREAM_INFER__WEB__PORT": str(settings.web.port),
        }
        view.phase = "loading models"
        roles = [
            await stack.enter_async_context(run_role(name, environment, directory / f"{name}.log"))
            for name in ("serve", "streams")
        ]
        await _publish_documents(settings, connection)
        async with asyncio.TaskGroup() as group:
            watches = [group.create_task(role.watch()) for role in roles]
            await wait_until_ready(url, timeout=START_SECONDS)
            view.phase = "indexing documents"
            await until_indexed(url, read_token(settings.web))
            yield connection, url
            view.phase = "stopping"
            for watch in watches:
                watch.cancel()


async def _publish_documents(settings: Settings, connection: Connection) -> None:
    async with Publisher(connection) as publisher:
        topic = settings.retrieval.documents
        records = [
            encode_document(topic, each.document, each.text, collection=each.collection, title=each.title)
            for each in load_documents()
        ]
        await publisher.publish(records)


async def until_indexed(url: str, token: str | None = None) -> None:
    """Return once the worker can answer from every document."""
    expected = sum(len(split_document(document)) for document in load_documents())
    async with asyncio.timeout(START_SECONDS):
        while (await read_metrics(url, token)).get(PASSAGES, 0.0) < expected:  # noqa: ASYNC110 - it is another process
            await asyncio.sleep(REFRESH)


async def _watch(view: LiveView, url: str, token: str | None) -> None:
    """Show the worker's own counts."""
    while True:
        view.metrics = await read_metrics(url, token)
        await asyncio.sleep(REFRESH)


def _in_words(tally: Tally, summary: dict[str, object]) -> str:
    verdict = "balanced: each event ended exactly once" if tally.is_balanced else "NOT BALANCED"
    counts = ", ".join(f"{summary[name]} {name.replace('_', ' ')}" for name in _COUNTS)
    return f"{counts} in {summary['seconds']} s; {verdict}"


_COUNTS = ("in", "results", "dead_letters", "lost", "duplicated")
