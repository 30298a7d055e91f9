"""Real texts to send, all of them different, in an order that the seed decides."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import resources
from itertools import cycle
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any, Final

Body = dict[str, Any]

TASKS: Final = ("classify", "translate", "answer")
LONGEST_STRETCH: Final = 4
"""Sentences in the longest text made of the language reference."""

_PARAGRAPH: Final = re.compile(r"\n\s*\n")
_SENTENCE_END: Final = re.compile(r"(?<=[.!?])\s+(?=[A-Z])")
_PROSE: Final = re.compile(r"[A-Z][^|=_{}\[\]<>]*[.!?]")
_LEAST_WORDS: Final = 4


class BodiesError(ValueError):
    """A file of texts or a mix cannot be used; the message says which and why."""


@dataclass(frozen=True, slots=True)
class Pool:
    """Bodies of which a share of the events is made; shares count relative to each other."""

    bodies: Sequence[Body]
    share: float = 1.0


@dataclass(frozen=True, slots=True)
class Words:
    """Texts of `least` to `most` words, and the share of the events that they make up."""

    least: int
    most: int
    share: float


def load_bodies(task: str, seed: int, path: Path | None = None) -> list[Body]:
    """Return the bodies of distinct requests for `task`, shuffled by `seed`.

    With a `path`, its lines are the texts (or questions), or whole bodies where it is a `.jsonl` file.
    Without one, texts are stretches of one to four sentences of the Python language reference, some
    2,000 of 4 to 150 words, and questions are those of the demo's documents.

    Raises:
        BodiesError: the file holds nothing, or a line that is no JSON object.
    """
    bodies = _bodies_of(task, path) if path else _own_bodies(task)
    return random.Random(seed).sample(bodies, len(bodies))


def split_by_words(bodies: Sequence[Body], classes: Sequence[Words]) -> list[Pool]:
    """Return a pool for each class of length, or one of all bodies where there are no classes.

    Raises:
        BodiesError: a class holds no body.
    """
    pools = [
        Pool([body for body in bodies if each.least <= _words(body) <= each.most], each.share)
        for each in classes
    ]
    for each, pool in zip(classes, pools, strict=True):
        if not pool.bodies:
            raise BodiesError(f"no text has {each.least} to {each.most} words")
    return pools or [Pool(bodies)]


def fresh_bodies(pools: Sequence[Pool], draw: random.Random) -> Iterator[Body]:
    """Yield bodies without end, those of each pool in turn, the pools by their shares.

    When all of a pool have been sent they come round again, so compare the number sent with their number.
    """
    turns = [cycle(pool.bodies) for pool in pools]
    shares = [pool.share for pool in pools]
    while True:
        yield next(turns[0] if len(turns) == 1 else draw.choices(turns, shares)[0])


def with_repeats(pools: Sequence[Pool], repeat_share: float, draw: random.Random) -> Iterator[Body]:
    """Yield bodies without end, each new one in turn; `repeat_share` of them were sent before."""
    sent: list[Body] = []
    distinct = sum(len(pool.bodies) for pool in pools)
    fresh = fresh_bodies(pools, draw)
    while True:
        if sent and draw.random() < repeat_share:
            yield draw.choice(sent)
            continue
        body = next(fresh)
        if len(sent) < distinct:
            sent.append(body)
        yield body


def _bodies_of(task: str, path: Path) -> list[Body]:
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    if not lines:
        raise BodiesError(f"{path}: no texts")
    if path.suffix == ".jsonl":
        return [_body(line, f"{path}:{number}") for number, line in enumerate(lines, start=1)]
    return [_ask(task, line) for line in lines]


def _own_bodies(task: str) -> list[Body]:
    return _demo_questions() if task == "answer" else [_ask(task, text) for text in _reference_texts()]


def _ask(task: str, text: str) -> Body:
    if task == "answer":
        return {"question": text}
    return {"text": text, "source": "en", "target": "pt"} if task == "translate" else {"text": text}


def _body(line: str, where: str) -> Body:
    try:
        body = json.loads(line)
    except ValueError:
        body = None
    if not isinstance(body, dict):
        raise BodiesError(f"{where}: not a JSON object")
    return body


def _words(body: Body) -> int:
    return len(str(body.get("text", body.get("question", ""))).split())


def _reference_texts() -> list[str]:
    """Return each run of up to four sentences within a paragraph of prose, once."""
    texts = {
        " ".join(sentences[start : start + length]): None
        for paragraph in _prose_paragraphs()
        for sentences in [_SENTENCE_END.split(paragraph)]
        for length in range(1, LONGEST_STRETCH + 1)
        for start in range(len(sentences) - length + 1)
    }
    return [text for text in texts if len(text.split()) >= _LEAST_WORDS]


def _prose_paragraphs() -> Iterator[str]:
    for topic in sorted(topics):
        for paragraph in _PARAGRAPH.split(topics[topic]):
            text = " ".join(paragraph.replace("*", "").split())
            if _PROSE.fullmatch(text):
                yield text


def _demo_questions() -> list[Body]:
    lines = resources.files("stream_infer.demo").joinpath("questions.jsonl").read_text("utf-8")
    return [json.loads(line)["body"] for line in lines.splitlines()]
