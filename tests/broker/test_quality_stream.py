"""Rolling quality of the running role is what scikit-learn says of the same topics, also after a kill."""

from __future__ import annotations

import random
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from sklearn.metrics import accuracy_score, precision_recall_fscore_support

from stream_infer.bus.batches import OutRecord
from stream_infer.bus.client_codec import decode_result, encode_feedback
from stream_infer.bus.connection import Connection
from stream_infer.bus.values import decode_value
from stream_infer.client import Client
from tests.broker.label_streams import Bodies, Given, LabelStreams
from tests.broker.probes import read_committed
from tests.broker.streams_process import running

KILLED = -signal.SIGKILL
LABELS = "abc"
IDS = 120


async def pairs(role: LabelStreams) -> tuple[list[str], list[str]]:
    """Return right and given labels, joined at once from the whole topics."""
    results = [
        decode_result(record) for record in await read_committed(role.connection, role.topic("results"))
    ]
    said = sorted(
        await read_committed(role.connection, role.topic("feedback")),
        key=lambda record: (record.timestamp_ms, record.partition, record.offset),
    )
    feedback = [decode_value(record.value or b"", None) for record in said]
    right = {fields["id"]: fields["label"] for fields in feedback if isinstance(fields["label"], str)}
    joined = [(right[result.id], str(result.body["label"])) for result in results if result.id in right]
    return [pair[0] for pair in joined], [pair[1] for pair in joined]


def has_pairs(count: int) -> Any:
    """Return whether the only model has so many pairs."""
    return lambda found: [count] == [body["pairs"] for body in found.values()]


async def assert_as_scikit_learn(role: LabelStreams, found: Bodies) -> None:
    """Compare what was published with a recomputation over the topics."""
    right, given = await pairs(role)
    ((key, body),) = found.items()
    labels: Mapping[str, Mapping[str, float]] = body["labels"]
    expected = precision_recall_fscore_support(right, given, labels=list(labels), zero_division=0)
    columns = [
        [label[name] or 0 for label in labels.values()] for name in ("precision", "recall", "f1", "support")
    ]

    assert b"mood@r1" == key
    assert len(right) == body["pairs"]
    assert accuracy_score(right, given) == pytest.approx(body["accuracy"])
    assert [pytest.approx(column) for column in expected] == columns


@pytest.mark.slow
async def test_quality_is_that_of_a_recomputation_after_kills(connection: Connection, tmp_path: Path) -> None:
    draw = random.Random(3)
    given = [Given(f"{n}", draw.choice(LABELS)) for n in range(IDS)]
    role = LabelStreams(connection, tmp_path)
    feedback = [
        encode_feedback(role.topic("feedback"), item.id, draw.choice(LABELS), key=item.id.encode())
        for item in given[::2]
    ]
    async with running(role), role.worker() as worker:
        await role.put(*feedback[: IDS // 8])
        await worker.write(given[:40])
        await worker.write(given[40:80], is_aborted=True)
        await role.bodies_until("quality", lambda found: any(body["pairs"] for body in found.values()))
        assert KILLED == await role.end(signal.SIGKILL)
        await worker.write(given[80:])
        await role.put(*feedback)
        await role.start()
        await role.bodies_until("quality", has_pairs(40))
        assert KILLED == await role.end(signal.SIGKILL)
        await role.start()
        async with Client(
            connection.bootstrap_servers,
            streams={"posts": role.stream},
            feedback_topic=role.topic("feedback"),
        ) as client:
            await client.feedback("1", "a")

        await assert_as_scikit_learn(role, await role.bodies_until("quality", has_pairs(41)))


async def test_bad_feedback_becomes_a_dead_letter(connection: Connection, tmp_path: Path) -> None:
    async with running(LabelStreams(connection, tmp_path)) as role, role.worker() as worker:
        await role.put(
            OutRecord(role.topic("feedback"), b"bad", b'{"id": "1", "label": 7}'),
            OutRecord(role.topic("feedback"), b"good", b'{"id": "1", "label": "b"}'),
        )
        await worker.write([Given("1", "a")])

        letter = await role.dead_letter_of(b"bad")
        found = await role.bodies_until("quality", has_pairs(1))

        assert ("invalid_field", "feedback") == (letter.reason, letter.stream)
        assert {"b": {"a": 1}} == found[b"mood@r1"]["confusion"]
