"""What a worker exports agrees with what went in and what came out."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import msgpack

from stream_infer.bus.batches import OutRecord
from stream_infer.bus.connection import Connection
from stream_infer.bus.publisher import Publisher
from stream_infer.streams.quality import Model, quality_record
from stream_infer.web.probe import read_metrics, read_samples
from tests.broker.conftest import MakeTopic
from tests.broker.probes import PATIENCE
from tests.broker.service_process import SCORING_STREAM, ServiceProcess

GOOD = 40
BAD = 3


async def test_what_is_exported_agrees_with_the_topics(
    connection: Connection, make_topic: MakeTopic, group: str, tmp_path: Path
) -> None:
    """Records wait for the worker, so the first one is in flight long after its timestamp."""
    names = {name: await make_topic() for name in ("input", "output", "dead_letters")}
    settings = SCORING_STREAM.format(group=group, bootstrap_servers=connection.bootstrap_servers, **names)
    values = [msgpack.packb({"text": f"text {number}"}) for number in range(GOOD)]
    values += [msgpack.packb({"text": "poison <raise>"}), *[b"not msgpack"] * BAD]
    async with Publisher(connection) as publisher:
        await publisher.publish([OutRecord(names["input"], None, value) for value in values])
    async with ServiceProcess(settings, tmp_path) as service:
        found = await _when_committed(service.url, len(values))

    assert len(values) == found["received_total"]
    assert (GOOD, BAD + 1) == (found["results_total"], found["dead_letters_total"])
    assert 6 * GOOD == found["latency_seconds_count"]
    assert GOOD == found["batch_items_sum"]
    assert found["engine_tokens_total"] > found["batch_tokens_sum"] > 0
    assert found["batch_failures_total"] > found["batch_splits_total"] >= 1
    assert found["transactions_total"] == found["transaction_seconds_count"] >= 1
    assert (1, 1, 1) == (found["ready"], found["assigned_partitions"], found["model_info"])
    assert found["rebalances_total"] >= 1
    assert min(found["replica_resident_bytes"], found["process_resident_memory_bytes"]) > 2**20
    assert (0, 0, 0) == (found["in_flight_records"], found["buffered_tokens"], found["lag_seconds"])


async def test_quality_is_what_its_topic_says_last(
    connection: Connection, make_topic: MakeTopic, group: str, tmp_path: Path
) -> None:
    """The topic is followed: what stands there at the start, and what comes; of the revision that runs."""
    names = {name: await make_topic() for name in ("input", "output", "dead_letters")}
    topic = await make_topic(cleanup_policy="compact")
    settings = SCORING_STREAM.format(group=group, bootstrap_servers=connection.bootstrap_servers, **names)
    settings += f'[side_streams]\nquality = "{topic}"\n'
    async with Publisher(connection) as publisher:
        await publisher.publish([_quality(topic, "1", {("even", "even"): 3, ("odd", "even"): 1})])
        async with ServiceProcess(settings, tmp_path) as service:
            found = await _with_pairs(service.url, 4)
            assert (0.75, 0.75) == (found["accuracy_ratio", ""], found["precision_ratio", "even"])
            assert (1.0, 0.0) == (found["recall_ratio", "even"], found["recall_ratio", "odd"])
            await publisher.publish(
                [_quality(topic, "1", {("odd", "odd"): 5}), _quality(topic, "0", {("odd", "even"): 9})]
            )
            found = await _with_pairs(service.url, 5)

    assert (1.0, 1.0) == (found["accuracy_ratio", ""], found["f1_ratio", "odd"])
    assert ("f1_ratio", "even") not in found


def _quality(topic: str, revision: str, pairs: dict[tuple[str, str], int]) -> OutRecord:
    return quality_record(Model("scorer", revision), Counter(pairs), 60_000, topic)


async def _with_pairs(url: str, pairs: int) -> Mapping[tuple[str, str], float]:
    """Return the gauges of quality by name and label, as soon as they rest on so many pairs."""
    prefix = "stream_infer_quality_"
    async with asyncio.timeout(PATIENCE):
        while True:
            samples = await read_samples(url)
            found = {
                (name.removeprefix(prefix), dict(labels).get("label", "")): value
                for (name, labels), value in samples.items()
                if name.startswith(prefix)
            }
            if found.get(("pairs", "")) == pairs:
                return found
            await asyncio.sleep(0.05)


async def _when_committed(url: str, outcomes: int) -> Mapping[str, float]:
    """Return the metrics, without their prefix, once so many outcomes are counted and nothing is left."""
    async with asyncio.timeout(PATIENCE):
        while True:
            found = {
                name.removeprefix("stream_infer_"): value for name, value in (await read_metrics(url)).items()
            }
            ended = found.get("results_total", 0.0) + found.get("dead_letters_total", 0.0)
            if ended >= outcomes and found["lag_records"] == 0 and found["ready"] == 1:
                return found
            await asyncio.sleep(0.05)
