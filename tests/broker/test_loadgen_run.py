"""Whole runs of the load generator's command line, against a worker and against none."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

from loadgen.kafka.security import PASSWORD, USER
from loadgen.verdict import Kind
from stream_infer.bus.connection import Connection
from tests.broker.conftest import MakeTopic
from tests.broker.probes import PATIENCE, read_committed
from tests.broker.secured_broker import SecuredBroker
from tests.broker.service_process import REPOSITORY, SCORING_STREAM, ServiceProcess

Topics = dict[str, str]


@pytest.fixture
async def topics(make_topic: MakeTopic) -> Topics:
    """An input, an output and a topic for dead letters, of two partitions each."""
    return {name: await make_topic(2) for name in ("input", "output", "dead_letters")}


async def start(connection: Connection, topics: Topics, *more: str) -> asyncio.subprocess.Process:
    """Start a run on the topics; what it says on stdout is captured."""
    places = ("--input", topics["input"], "--output", topics["output"], "--output", topics["dead_letters"])
    servers = ("--bootstrap-servers", connection.bootstrap_servers)
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "loadgen", "run", *servers, *places, *more),
        cwd=REPOSITORY,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )


async def end(process: asyncio.subprocess.Process) -> tuple[int, Any, str]:
    """Return the exit code, the summary, and what was said on stderr."""
    try:
        output, said = await asyncio.wait_for(process.communicate(), PATIENCE)
    finally:
        if process.returncode is None:
            process.kill()
    assert process.returncode is not None
    return process.returncode, json.loads(output or b"null"), said.decode()


async def test_a_run_times_outcomes_and_proves_them(
    connection: Connection, topics: Topics, group: str, tmp_path: Path
) -> None:
    servers, path = connection.bootstrap_servers, tmp_path / "report.json"
    settings = SCORING_STREAM.format(group=group, bootstrap_servers=servers, **topics)
    load = ("--rate", "200", "--count", "300", "--arrivals", "burst", "--burst-seconds", "1")
    mix = ("--poison-share", "0.2", "--hot-share", "0.3", "--producers", "2", "--words", "4-20:1")
    async with ServiceProcess(settings, tmp_path) as worker:
        more = (
            "--patience",
            "30",
            *load,
            *mix,
            "--metrics",
            f"{worker.url}/metrics",
            "--audit",
            "--json",
            str(path),
        )
        code, summary, said = await end(await start(connection, topics, *more))

    assert 0 == code, said
    report = json.loads(path.read_text(encoding="utf-8"))
    assert ("clean", 300) == (report["audit"]["verdict"], report["audit"]["records"])
    counts = report["counts"]
    assert (300, 0, 0) == (counts["sent"], counts["outstanding"], counts["good_dead_letters"])
    assert 0 < counts["poison_sent"] == counts["dead_letters"]
    assert 300 == sum(second["outcomes"] for second in report["seconds"])
    assert 0 < report["latency_ms"]["p50"] <= report["latency_ms"]["p99"]
    assert any(change["mean"] for change in report["metrics"]["changes"])
    held = ("process_resident_memory_bytes", "stream_infer_replica_resident_bytes")
    for gauge in (*held, "stream_infer_lag_records", "stream_infer_queue_tokens"):
        assert all(gauge in look["values"] for look in report["metrics"]["gauges"])
    assert set(held) == set(report["memory"])
    assert all(memory["mean_bytes"] > 2**20 for memory in summary["memory"].values())
    assert summary == {name: report[name] for name in summary}


async def test_a_run_without_outcomes_says_what_is_lost(connection: Connection, topics: Topics) -> None:
    more = ("--rate", "1000", "--count", "20", "--patience", "0.2", "--audit")
    code, summary, said = await end(await start(connection, topics, *more))

    assert 1 == code, said
    assert {str(Kind.LOST): 20} == summary["audit"]["counts"]
    assert (20, False, False) == (
        summary["counts"]["outstanding"],
        summary["is_complete"],
        summary["is_cut_short"],
    )


async def test_an_interrupt_leaves_a_report_of_what_was_done(
    connection: Connection, topics: Topics, tmp_path: Path
) -> None:
    path = tmp_path / "report.json"
    more = ("--rate", "50", "--count", "100000", "--arrivals", "constant", "--json", str(path), "--audit")
    process = await start(connection, topics, *more)
    async with asyncio.timeout(PATIENCE):
        while not await read_committed(connection, topics["input"]):
            assert process.returncode is None
    process.send_signal(signal.SIGINT)
    code, summary, said = await end(process)

    assert 2 == code, said
    assert summary["is_cut_short"]
    assert ["the run was cut short"] == list(summary["audit"]["doubts"])
    report = json.loads(path.read_text(encoding="utf-8"))
    assert 0 < report["counts"]["sent"] < 100_000


async def test_a_run_needs_its_topics_and_a_broker(connection: Connection, topics: Topics) -> None:
    missing = {**topics, "output": "no-such-topic"}
    code, _, said = await end(await start(connection, missing))

    assert 2 == code
    assert "no such topic: no-such-topic" in said


@pytest.mark.parametrize("wrong", ["certificate", "password"])
async def test_a_broker_that_cannot_be_trusted_or_does_not_trust_is_out_of_reach(
    wrong: str, secured: SecuredBroker
) -> None:
    way = dict(secured.ways()["PLAIN"])
    if wrong == "certificate":
        del way["ssl_ca_file"]
    else:
        way["sasl_password_file"] = secured.file("password", "guessed")
    options = [word for name, value in way.items() for word in (f"--{name.replace('_', '-')}", value)]

    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "loadgen", "audit", *options),
        cwd=REPOSITORY,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    code, _, said = await end(process)

    assert 2 == code
    assert "cannot tell: no broker answers" in said
    assert {"certificate": "--ssl-ca-file", "password": f"does not know {USER}"}[wrong] in said
    assert PASSWORD not in said
    assert "guessed" not in said
