"""Examples with known results, one JSON object a line.

- classify: `{"text", "label"}`
- translate: `{"text", "reference"}`, and `source` and `target`; `reference` may be a list of several
- answer: `{"question", "answers"}`, an empty list where there is no answer, and `context`,
  `collection`, and `document` and `passage` for where the answer stands

Other fields are ignored.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from stream_infer.errors import ConfigError
from stream_infer.schemas import AnswerBody, Body, ClassifyBody, Task, TranslateBody

MAX_FAULTS_SHOWN: Final = 20


@dataclass(frozen=True, slots=True)
class Example:
    """A request's body and what should come back.

    `expected` holds the label, the reference translations, or the right answers: none where the
    passages hold no answer. `document` and `passage` say where the answer stands, if that is known.
    """

    body: Body
    expected: tuple[str, ...]
    document: str | None = None
    passage: int | None = None


def read_examples(task: Task, lines: Iterable[str], name: str) -> list[Example]:
    """Return the examples of a file in JSON lines; blank lines are skipped.

    Raises:
        ConfigError: there are none, or lines are malformed; every fault is named with file, line
            and field.
    """
    examples: list[Example] = []
    faults: list[str] = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            examples.append(_MAKERS[task](_Fields(line)))
        except ValueError as error:
            faults.append(f"{name}:{number}: {error}")
    if faults:
        raise ConfigError(_summary(faults))
    if not examples:
        raise ConfigError(f"{name}: no examples")
    return examples


class _Fields:
    """One line's fields, with their types checked as they are read; every fault is a ValueError."""

    def __init__(self, line: str) -> None:
        try:
            fields = json.loads(line)
        except RecursionError:
            raise ValueError("nested too deeply") from None
        if not isinstance(fields, dict):
            raise ValueError("not a JSON object")  # noqa: TRY004 - read_examples collects ValueErrors
        self._fields: Mapping[str, Any] = fields

    def text(self, field: str) -> str:
        value = self._fields.get(field)
        if not isinstance(value, str) or not value.strip():
            raise ValueError(f"{field}: must be a text that is not empty")
        return value

    def optional_text(self, field: str) -> str | None:
        return None if self._fields.get(field) is None else self.text(field)

    def texts(self, field: str, least: int) -> tuple[str, ...]:
        value = self._fields.get(field)
        values = [value] if isinstance(value, str) else value
        if not isinstance(values, list) or not all(isinstance(text, str) and text.strip() for text in values):
            raise ValueError(f"{field}: must be a text or a list of texts, none of them empty")
        if len(values) < least:
            raise ValueError(f"{field}: must hold a text")
        return tuple(values)

    def optional_count(self, field: str) -> int | None:
        value = self._fields.get(field)
        if value is not None and (type(value) is not int or value < 0):
            raise ValueError(f"{field}: must be a whole number from 0")
        return value


def _classify(fields: _Fields) -> Example:
    return Example(ClassifyBody(fields.text("text")), (fields.text("label"),))


def _translate(fields: _Fields) -> Example:
    body = TranslateBody(fields.text("text"), fields.optional_text("source"), fields.optional_text("target"))
    return Example(body, fields.texts("reference", least=1))


def _answer(fields: _Fields) -> Example:
    body = AnswerBody(
        fields.text("question"), fields.optional_text("context"), fields.optional_text("collection")
    )
    document, passage = fields.optional_text("document"), fields.optional_count("passage")
    return Example(body, fields.texts("answers", least=0), document, passage)


_MAKERS: Final[Mapping[Task, Callable[[_Fields], Example]]] = {
    Task.CLASSIFY: _classify,
    Task.TRANSLATE: _translate,
    Task.ANSWER: _answer,
}


def _summary(faults: Sequence[str]) -> str:
    shown = list(faults[:MAX_FAULTS_SHOWN])
    if len(faults) > len(shown):
        shown.append(f"and {len(faults) - len(shown)} more")
    return "\n".join(shown)
