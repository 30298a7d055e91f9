"""Real texts to send, all of them different, in an order that the seed decides."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterator, Sequence
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


def load_bodies(task: str, seed: int, path: Path | None = None) -> list[Body]:
    """Return the bodies of distinct requests for `task`, shuffled by `seed`.

    With a `path`, its lines are the texts (or questions). Without one, texts are stretches of one to
    four sentences of the Python language reference, some 2,000 of 4 to 150 words, and questions are
    those of the demo's documents.
    """
    texts = path.read_text(encoding="utf-8").splitlines() if path else None
    if task == "answer":
        bodies = [{"question": text} for text in texts] if texts else _demo_questions()
    elif task == "translate":
        bodies = [{"text": text, "source": "en", "target": "pt"} for text in texts or _reference_texts()]
    else:
        bodies = [{"text": text} for text in texts or _reference_texts()]
    return random.Random(seed).sample(bodies, len(bodies))


def with_repeats(bodies: Sequence[Body], repeat_share: float, draw: random.Random) -> Iterator[Body]:
    """Yield bodies without end, each new one in turn; `repeat_share` of them were sent before.

    When all have been sent they come round again, so compare the number sent with the number of bodies.
    """
    sent: list[Body] = []
    fresh = cycle(bodies)
    while True:
        if sent and draw.random() < repeat_share:
            yield draw.choice(sent)
            continue
        body = next(fresh)
        if len(sent) < len(bodies):
            sent.append(body)
        yield body


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
