"""Sample events and documents: texts written for the demo, with what a good service makes of them."""

from __future__ import annotations

import base64
import json
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache
from importlib import resources
from itertools import cycle
from typing import Any, Final

import msgpack

from stream_infer.retrieval.passages import Document
from stream_infer.schemas import Task

KEY_COUNT: Final = 36
DUPLICATE_SHARE: Final = 0.1
BAD_SHARE: Final = 0.03

_TASK_WEIGHTS: Final = {Task.CLASSIFY: 5, Task.TRANSLATE: 3, Task.ANSWER: 2}
_FILES: Final = {
    Task.CLASSIFY: "reviews.jsonl",
    Task.TRANSLATE: "translations.jsonl",
    Task.ANSWER: "questions.jsonl",
}
_BAD_FILE: Final = "bad_events.jsonl"
_DOCUMENTS_FILE: Final = "documents.jsonl"


@dataclass(frozen=True, slots=True)
class DemoEvent:
    """One event to send; `value` is its wire form.

    `bad` is the dead-letter reason that it must end with, None for an event that gets a result.
    `expected` is the label a person would give, or words of the document that answer the question;
    None for translations and for questions that no document answers.
    """

    id: str
    task: Task
    key: str
    value: bytes | None
    bad: str | None = None
    expected: str | None = None


def load_events(count: int, seed: int = 0) -> list[DemoEvent]:
    """Return `count` events, the same for the same seed.

    The three tasks are mixed, about one event in ten repeats an earlier one under a new id, and
    about one in thirty is bad. Texts come round again when there are more events than texts.
    """
    if count < 1:
        raise ValueError(f"count is {count}, not at least 1")
    draw = random.Random(seed)  # noqa: S311 - a repeatable demo, not a secret
    pools = {task: _shuffled(_load(name), draw) for task, name in _FILES.items()}
    bad = _shuffled(_load(_BAD_FILE), draw)
    sent: list[DemoEvent] = []
    good: list[DemoEvent] = []
    for number in range(count):
        event = _next_event(draw, pools, bad, good)
        event = replace(event, id=f"demo-{number:06d}", key=f"customer-{draw.randrange(KEY_COUNT):02d}")
        sent.append(event)
        if event.bad is None:
            good.append(event)
    return sent


def load_documents() -> list[Document]:
    """Return the documents that the demo's questions are about."""
    return [Document(**row) for row in _rows(_DOCUMENTS_FILE)]


def _next_event(
    draw: random.Random,
    pools: Mapping[Task, Iterator[DemoEvent]],
    bad: Iterator[DemoEvent],
    good: list[DemoEvent],
) -> DemoEvent:
    chance = draw.random()
    if chance < BAD_SHARE:
        return next(bad)
    if chance < BAD_SHARE + DUPLICATE_SHARE and good:
        return draw.choice(good)
    task = draw.choices(list(_TASK_WEIGHTS), list(_TASK_WEIGHTS.values()))[0]
    return next(pools[task])


def _shuffled(events: tuple[DemoEvent, ...], draw: random.Random) -> Iterator[DemoEvent]:
    return cycle(draw.sample(events, len(events)))


@cache
def _load(name: str) -> tuple[DemoEvent, ...]:
    return tuple(_parse(row) for row in _rows(name))


def _rows(name: str) -> list[dict[str, Any]]:
    lines = resources.files(__package__).joinpath(name).read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def _parse(row: Mapping[str, Any]) -> DemoEvent:
    return DemoEvent(
        id="",
        task=Task(row["task"]),
        key="",
        value=_value(row),
        bad=row.get("bad"),
        expected=row.get("expected"),
    )


def _value(row: Mapping[str, Any]) -> bytes | None:
    if "body" in row:
        return msgpack.packb(row["body"])
    raw = row["raw_base64"]
    return None if raw is None else base64.b64decode(raw)
