"""`stream-infer evaluate` as a command, on the packaged models."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from stream_infer.cli import app

pytestmark = [pytest.mark.model, pytest.mark.quality, pytest.mark.slow]

DOCUMENTS = [
    {
        "document": "museum",
        "title": "Opening hours",
        "text": "The museum is closed on Tuesdays. On all other days it opens at ten in the morning.",
    },
    {
        "document": "kettle",
        "title": "Lantern K2",
        "text": "The Lantern K2 holds up to 1.5 litres. A full kettle takes about four minutes to boil.",
    },
]
QUESTIONS = [
    {
        "question": "On which day is the museum closed?",
        "answers": ["The museum is closed on Tuesdays."],
        "document": "museum",
        "passage": 0,
    },
    {
        "question": "How much water can the Lantern K2 hold?",
        "answers": ["1.5 litres"],
        "document": "kettle",
        "passage": 0,
    },
]


def lines(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    return str(path)


def test_answers_are_measured_on_documents_of_a_file(tmp_path: Path) -> None:
    documents = lines(tmp_path / "documents.jsonl", DOCUMENTS)
    questions = lines(tmp_path / "questions.jsonl", QUESTIONS)

    measured = CliRunner().invoke(app, ["evaluate", "answer", questions, "--documents", documents])

    assert 0 == measured.exit_code, measured.output
    metrics = json.loads(measured.stdout)
    assert (1.0, 0.5) == (metrics["recall_at_1"], metrics["exact_match"])


def test_a_faulty_document_is_named_with_its_line(tmp_path: Path) -> None:
    documents = lines(tmp_path / "documents.jsonl", [*DOCUMENTS, {"document": "empty", "text": " "}])
    questions = lines(tmp_path / "questions.jsonl", QUESTIONS)

    refused = CliRunner().invoke(app, ["evaluate", "answer", questions, "--documents", documents])

    assert 2 == refused.exit_code
    assert "documents.jsonl:3: " in refused.stderr
