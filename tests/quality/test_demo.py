"""The demo, as README starts it: real models, both roles, and a balance that holds."""

from __future__ import annotations

import asyncio
import json
import os
import sys

import pytest

from stream_infer.demo.events import load_events
from stream_infer.schemas import Task

pytestmark = [pytest.mark.model, pytest.mark.slow]

EVENTS = 300


@pytest.mark.timeout(400)
async def test_every_event_ends_once_and_the_bad_ones_as_dead_letters() -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "stream_infer", "demo", "--json", "--events", str(EVENTS)),
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    stdout, stderr = await process.communicate()
    assert 0 == process.returncode, stderr.decode()[-3000:]
    summary = json.loads(stdout)

    events = load_events(EVENTS)
    bad = sum(event.bad is not None for event in events)
    assert (EVENTS, EVENTS - bad, bad) == (summary["in"], summary["results"], summary["dead_letters"])
    assert (0, 0) == (summary["lost"], summary["duplicated"])
    for task in Task:
        counts = summary["tasks"][task]
        assert sum(event.task is task for event in events) == counts["in"]
        assert counts["in"] == counts["results"] + counts["dead_letters"]
