from __future__ import annotations

import json
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream_infer.errors import ConfigError
from stream_infer.evaluation.examples import MAX_FAULTS_SHOWN, Example, read_examples
from stream_infer.evaluation.scores import evaluate, exact_match, word_f1
from stream_infer.schemas import AnswerBody, ClassifyBody, ResultBody, Task, TranslateBody


def labelled(*labels: str) -> list[Example]:
    return [Example(ClassifyBody("text"), (label,)) for label in labels]


def label_results(*labels: str | None) -> list[ResultBody | None]:
    return [None if label is None else {"label": label} for label in labels]


def answered(*answers: str | None) -> list[ResultBody | None]:
    return [{"answer": answer, "citations": []} for answer in answers]


def question(*expected: str, document: str | None = None, passage: int | None = None) -> Example:
    return Example(AnswerBody("why?"), expected, document, passage)


def read(task: Task, *rows: dict[str, Any] | str) -> list[Example]:
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    return read_examples(task, lines, "set.jsonl")


def test_labels_are_scored_one_class_at_a_time() -> None:
    scores = evaluate(Task.CLASSIFY, labelled("a", "a", "a", "b"), label_results("a", "a", "b", "b"))

    assert 0.75 == scores["accuracy"]
    assert pytest.approx((0.8, 2 / 3)) == (scores["f1.a"], scores["f1.b"])
    assert pytest.approx((0.8 + 2 / 3) / 2) == scores["macro_f1"]


def test_dead_letters_count_as_wrong() -> None:
    scores = evaluate(Task.CLASSIFY, labelled("a", "b"), label_results("a", None))

    assert (0.5, 0.5) == (scores["accuracy"], scores["failed"])
    assert 0 == evaluate(Task.ANSWER, [question("x")], [None])["exact_match"]
    assert 0 == evaluate(Task.TRANSLATE, [Example(TranslateBody("x"), ("y",))], [None])["bleu"]


def test_translations_are_scored_by_sacrebleu() -> None:
    examples = [
        Example(TranslateBody("x"), ("O gato dormiu no sofá.", "O gato dormia no sofá.")),
        Example(TranslateBody("y"), ("A casa fica perto do rio.",)),
    ]
    same: list[ResultBody | None] = [
        {"text": "O gato dormia no sofá."},
        {"text": "A casa fica perto do rio."},
    ]
    other: list[ResultBody | None] = [{"text": "Bom dia."}, {"text": "A casa fica perto do mar."}]

    assert pytest.approx((100, 100)) == tuple(
        evaluate(Task.TRANSLATE, examples, same)[name] for name in ("bleu", "chrf")
    )
    worse = evaluate(Task.TRANSLATE, examples, other)
    assert 0 < worse["bleu"] < 60
    assert 0 < worse["chrf"] < 60


def test_answers_are_compared_by_their_words() -> None:
    assert 1 == exact_match("The  14 kilograms!", "14 Kilograms")
    assert 0 == exact_match("14 kilos", "14 kilograms")
    assert pytest.approx(0.75) == word_f1("it weighs 14 kilograms", "weighs 14 kilograms net")
    assert 0 == word_f1("red", "blue")
    assert 1 == word_f1("the", "a")


def test_best_of_several_answers_counts() -> None:
    scores = evaluate(Task.ANSWER, [question("fourteen kilograms", "14 kg")], answered("14 kg"))

    assert (1, 1) == (scores["exact_match"], scores["f1"])
    assert "refused" not in scores


def test_no_answer_is_right_where_there_is_none() -> None:
    examples = [question(), question(), question("x"), question("y")]

    scores = evaluate(Task.ANSWER, examples, answered(None, "guess", "x", None))

    assert (0.5, 0.5, 0.5) == (scores["exact_match"], scores["refused"], scores["answered"])


def test_citations_are_looked_for_at_the_top() -> None:
    cited = [{"document": "d", "passage": number} for number in (0, 1, 2, 3)]
    result: ResultBody = {"answer": "x", "citations": cited}
    examples = [question("x", document="d", passage=number) for number in (0, 2, 3)]
    examples.append(question("x"))

    scores = evaluate(Task.ANSWER, examples, [result] * 4)

    assert pytest.approx((1 / 3, 2 / 3)) == (scores["recall_at_1"], scores["recall_at_3"])


@given(st.text(max_size=30), st.text(max_size=30))
def test_word_overlap_is_a_symmetric_share(one: str, other: str) -> None:
    assert 0 <= word_f1(one, other) <= 1
    assert word_f1(one, other) == word_f1(other, one)
    assert 1 == word_f1(one, one)
    assert exact_match(one, other) <= word_f1(one, other)


def test_results_must_match_the_examples() -> None:
    with pytest.raises(ValueError, match="1 results for 2 examples"):
        evaluate(Task.CLASSIFY, labelled("a", "b"), label_results("a"))


def test_missing_library_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sacrebleu", None)

    with pytest.raises(ConfigError, match=r"stream-infer\[train\]"):
        evaluate(Task.TRANSLATE, [Example(TranslateBody("x"), ("y",))], [{"text": "y"}])


def test_examples_of_each_task_are_read() -> None:
    assert [Example(ClassifyBody("good"), ("positive",))] == read(
        Task.CLASSIFY, {"text": "good", "label": "positive", "note": 1}, "", "  "
    )
    assert [
        Example(TranslateBody("hi", "en", "pt"), ("oi", "olá")),
        Example(TranslateBody("x"), ("y",)),
    ] == read(
        Task.TRANSLATE,
        {"text": "hi", "source": "en", "target": "pt", "reference": ["oi", "olá"]},
        {"text": "x", "reference": "y"},
    )
    assert [Example(AnswerBody("why?", "c", "k"), ("x",), "d", 2), Example(AnswerBody("who?"), ())] == read(
        Task.ANSWER,
        {
            "question": "why?",
            "context": "c",
            "collection": "k",
            "answers": "x",
            "document": "d",
            "passage": 2,
        },
        {"question": "who?", "answers": []},
    )


def test_every_fault_is_reported_with_line_and_field() -> None:
    with pytest.raises(ConfigError) as raised:
        read(
            Task.ANSWER,
            {"question": "why?", "answers": ["x"]},
            "{",
            "[]",
            {"answers": []},
            {"question": "why?", "answers": [1]},
            {"question": "why?", "answers": [], "passage": -1},
            {"question": " ", "answers": []},
        )

    faults = str(raised.value).splitlines()
    assert ["set.jsonl:2", "set.jsonl:3", "set.jsonl:4", "set.jsonl:5", "set.jsonl:6", "set.jsonl:7"] == [
        fault.rpartition(": ")[0].split(": ")[0] for fault in faults
    ]
    assert ["question", "answers", "passage", "question"] == [fault.split(": ")[1] for fault in faults[2:]]


def test_long_lists_of_faults_are_cut() -> None:
    with pytest.raises(ConfigError, match="and 5 more"):
        read(Task.CLASSIFY, *["{}"] * (MAX_FAULTS_SHOWN + 5))


def test_file_without_examples_is_refused() -> None:
    with pytest.raises(ConfigError, match="no examples"):
        read(Task.CLASSIFY, "", " ")


@given(st.text(max_size=60), st.sampled_from(list(Task)))
def test_any_line_is_read_or_refused(line: str, task: Task) -> None:
    with pytest.raises(ConfigError, match=r"set\.jsonl"):
        read(task, line.replace("\n", " "))
