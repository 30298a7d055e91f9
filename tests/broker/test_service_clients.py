"""Clients of every kind against a running worker: librdkafka's, this package's own, and the commands."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import aiohttp
import msgpack
import pytest

from loadgen.verdict import Kind
from stream_infer.client import Client, ClientRequest, RequestFailedError
from stream_infer.config_loading import load_settings
from stream_infer.schemas import ClassifyBody, Result
from stream_infer.web.probe import read_metrics
from tests.broker.foreign import consume, produce
from tests.broker.lanes import PATIENCE, Lane, feed, texts, watched
from tests.broker.service_process import ServiceProcess


async def test_a_foreign_client_asks_and_is_answered(lane: Lane, group: str, tmp_path: Path) -> None:
    """Msgpack and JSON in, results and a dead letter out, each read once by its id."""
    messages: list[dict[str, Any]] = [
        {"key": b"a", "value": msgpack.packb({"text": "even"}), "headers": {"ce_id": "packed"}},
        {"key": b"b", "value": b'{"text": "odd"}', "headers": {"ce_id": "json"}},
        {"key": b"c", "value": b"\xc1", "headers": {"ce_id": "broken"}},
    ]
    async with ServiceProcess(lane.settings, tmp_path):
        await asyncio.to_thread(produce, lane.connection, lane.input, messages)
        answers = await asyncio.to_thread(consume, lane.connection, group, lane.outputs, len(messages))

    labels = {
        dict(answer.headers())["ce_id"]: msgpack.unpackb(answer.value())["label"]
        for answer in answers
        if answer.topic() == lane.output
    }
    (letter,) = [answer for answer in answers if answer.topic() == lane.dead_letters]
    assert {b"packed": "even", b"json": "odd"} == labels
    assert (b"c", b"\xc1") == (letter.key(), letter.value())
    assert b"malformed" == dict(letter.headers())["dead_letter_reason"]


async def test_the_client_is_answered_by_a_worker(lane: Lane, tmp_path: Path) -> None:
    async with ServiceProcess(lane.settings, tmp_path):
        settings = load_settings(Path(tmp_path, "worker.toml"))
        async with Client(settings=settings.kafka, streams=settings.streams) as client:
            assert "odd" == (await client.classify("odd", timeout=PATIENCE)).body["label"]
            with pytest.raises(RequestFailedError, match="empty_text"):
                await client.classify(" ", timeout=PATIENCE)
            given = [ClientRequest(ClassifyBody("x" * length)) for length in range(1, 40)]
            labels = {
                identity: outcome.body["label"]
                async for identity, outcome in client.submit(given, timeout=PATIENCE)
                if isinstance(outcome, Result)
            }
    assert {asked.id: ("odd", "even")[place % 2] for place, asked in enumerate(given)} == labels


async def test_the_commands_reach_a_worker(lane: Lane, tmp_path: Path) -> None:
    async with ServiceProcess(lane.settings, tmp_path) as worker:
        config = str(tmp_path / "worker.toml")
        sent = await command("send", "classify", "even", "--config", config)
        refused = await command("send", "classify", "  ", "--config", config)
        counted = await until_counted(worker.url, dead_letters=1)
        seen = await command("top", worker.url, "--once", "--interval", "0.2")
        async with aiohttp.ClientSession() as session, session.get(f"{worker.url}/health") as response:
            assert {"status": "alive"} == await response.json()

    unanswered = await command("top", worker.url, "--once")

    assert 0 == sent[0], sent
    assert (0, True, True) == (seen[0], "ready" in seen[1], "score" in seen[1])
    assert (2, True) == (unanswered[0], "no worker answers" in unanswered[2])
    assert "even" == json.loads(sent[1])["label"]
    assert 2 == refused[0]
    assert "empty_text" in refused[2]
    assert (2.0, 1.0, 1.0) == tuple(
        counted[f"stream_infer_{name}_total"] for name in ("received", "results", "dead_letters")
    )


async def test_at_least_once_loses_nothing_when_killed(lane: Lane, tmp_path: Path) -> None:
    """The opt-out may repeat what was written before the position was; it never leaves anything out."""
    given = texts(800, seed=8)
    settings = lane.settings + 'delivery = "at-least-once"\n'
    async with watched(lane) as outcomes, asyncio.TaskGroup() as tasks:
        tasks.create_task(feed(lane, given, outcomes, ahead=300))
        async with ServiceProcess(settings, tmp_path, instance_id="only") as worker:
            for count in (150, 400):
                await outcomes.reach(count)
                await worker.kill()
                await worker.start()
            await outcomes.reach(len(given))
            async with asyncio.timeout(PATIENCE):
                # Some of those that came may have come twice, and topics set no event.
                while Kind.LOST in (await lane.audit()).counts:  # noqa: ASYNC110 - as above
                    await asyncio.sleep(0.1)

    assert Kind.UNEXPECTED not in (await lane.audit()).counts


async def command(*arguments: str) -> tuple[int | None, str, str]:
    """Run `stream-infer` and return its exit code, stdout and stderr."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "stream_infer", *arguments),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await asyncio.wait_for(process.communicate(), PATIENCE)
    return process.returncode, out.decode(), err.decode()


async def until_counted(url: str, dead_letters: int) -> Mapping[str, float]:
    """Return the worker's metrics once they count so many: it counts a moment after it has committed."""
    async with asyncio.timeout(PATIENCE):
        while True:
            counted = await read_metrics(url)
            if counted.get("stream_infer_dead_letters_total", 0) >= dead_letters:
                return counted
            await asyncio.sleep(0.05)
