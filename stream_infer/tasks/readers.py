"""Readers: how an answer is made of the passages that were found.

Each is a part of a recipe: `read` yields work and is sent outputs, like the recipe itself. Scores
are from -1 to 1; below a reader's floor there is no answer, rather than a bad one.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from stream_infer.errors import ModelFailedError
from stream_infer.retrieval.index import Hit, cosine
from stream_infer.retrieval.passages import Passage, embedding_text
from stream_infer.schemas import Output, Work
from stream_infer.sentences import split_sentences
from stream_infer.tasks.prompts import Prompter

Vector = NDArray[np.float16 | np.float32]

DEFAULT_FLOOR: Final = 0.38
"""Of the questions in tests/quality it lets 97 % of the answerable pass and stops 90 % of the others."""
SENTENCE_WEIGHT: Final = 0.75
"""How much a sentence's own likeness to the question counts against that of its passage."""
EXTRACTIVE_FLOOR: Final = 0.1
"""Of the likelihood that a model gives its words; how high it should be differs from model to model."""
_DECIMALS: Final = 6


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked, and its embedding [dimension]."""

    text: str
    vector: Vector


@dataclass(frozen=True, slots=True)
class Citation:
    """A stretch of a passage that supports the answer; `start` and `end` count within the passage."""

    passage: Passage
    start: int
    end: int
    score: float

    @property
    def text(self) -> str:
        """The words that are cited, as they stand in the document."""
        return self.passage.text[self.start : self.end]


@dataclass(frozen=True, slots=True)
class Reading:
    """What a reader made of the passages; without an answer there are no citations."""

    answer: str | None
    score: float
    citations: tuple[Citation, ...] = ()


Steps = Generator[Sequence[Work], Sequence[Output], Reading]
_CitationSteps = Generator[Sequence[Work], Sequence[Output], list[Citation]]


class Reader(Protocol):
    """Answers a question from passages."""

    def read(self, question: Question, hits: Sequence[Hit]) -> Steps:
        """Return the answer found in `hits`, which are not empty and the best first."""
        ...


@dataclass(frozen=True, slots=True)
class SentenceReader:
    """Answers with the sentence that is most like the question; needs no model but the embedder.

    Each passage contributes its best sentence as a citation, if that is above the floor.
    """

    embedder: str
    floor: float = DEFAULT_FLOOR
    language: str = "en"

    def read(self, question: Question, hits: Sequence[Hit]) -> Steps:
        """Return the best sentence; its score weighs the sentence's likeness with its passage's."""
        citations = yield from self.best_sentences(question, hits)
        return _from_citations(citations, self.floor)

    def best_sentences(self, question: Question, hits: Sequence[Hit]) -> _CitationSteps:
        """Return the best sentence of each passage, best first."""
        sentences = [
            (hit, Citation(hit.passage, span.start, span.end, hit.score))
            for hit in hits
            for span in split_sentences(hit.passage.text, self.language)
        ]
        vectors = yield from _embed(self.embedder, [sentence for _, sentence in sentences])
        best: dict[tuple[str, int], Citation] = {}
        for (hit, sentence), vector in zip(sentences, vectors, strict=True):
            likeness = cosine(question.vector, vector)
            score = SENTENCE_WEIGHT * likeness + (1 - SENTENCE_WEIGHT) * hit.score
            place = (hit.passage.document, hit.passage.number)
            if place not in best or score > best[place].score:
                best[place] = _scored(sentence, score)
        return sorted(best.values(), key=lambda citation: -citation.score)


@dataclass(frozen=True, slots=True)
class ExtractiveReader:
    """Answers with the words that an extractive model points at.

    The model reads question and passage as a pair and gives float32 [first token, last token,
    score from 0 to 1]; `spans` returns the characters of each token in the passage, with (0, 0)
    for the others.
    """

    model: str
    spans: Callable[[Work], Sequence[tuple[int, int]]]
    floor: float = EXTRACTIVE_FLOOR

    def read(self, question: Question, hits: Sequence[Hit]) -> Steps:
        """Return the likeliest words of any passage; equal scores go to the better passage."""
        works = [Work(self.model, question.text, pair=hit.passage.text) for hit in hits]
        outputs = yield works
        citations = [
            self._cite(hit.passage, work, vector_of(output, work))
            for hit, work, output in zip(hits, works, outputs, strict=True)
        ]
        citations.sort(key=lambda citation: -citation.score)
        return _from_citations(citations, self.floor)

    def _cite(self, passage: Passage, work: Work, vector: Vector) -> Citation:
        first, last, score = int(vector[0]), int(vector[1]), float(vector[2])
        spans = self.spans(work)
        if not 0 <= first <= last < len(spans):
            raise ModelFailedError(f"model {self.model!r} points at tokens {first} to {last} of {len(spans)}")
        start, end = spans[first][0], spans[last][1]
        return Citation(passage, start, end, round(score, _DECIMALS) if start < end else 0.0)


@dataclass(frozen=True, slots=True)
class GenerativeReader:
    """Has a language model put the answer in words, and cites the sentences that support it.

    What the embedder finds decides whether there is an answer at all: a language model asked about
    passages that do not hold the answer makes one up.
    """

    model: str
    sentences: SentenceReader
    prompter: Prompter

    def read(self, question: Question, hits: Sequence[Hit]) -> Steps:
        """Return the generated answer with the score of the best supporting sentence.

        Citations are the best sentences of the passages that the model was shown, with the one
        most like the answer first.
        """
        found = yield from self.sentences.read(question, hits)
        if found.answer is None:
            return found
        prompt = self.prompter.write(question.text, [support.passage.text for support in found.citations])
        (output,) = yield (Work(self.model, prompt.text),)
        text = (output.text or "").strip()
        if not prompt.shown or self.prompter.declines(text):
            return Reading(None, found.score)
        citations = yield from self._order(text, found.citations[: prompt.shown])
        return Reading(text, found.score, tuple(citations))

    def _order(self, answer: str, supports: Sequence[Citation]) -> _CitationSteps:
        """Return the citations with those most like the answer first."""
        answered = Work(self.sentences.embedder, answer)
        (output,) = yield (answered,)
        vectors = yield from _embed(self.sentences.embedder, supports)
        likeness = [cosine(vector_of(output, answered), vector) for vector in vectors]
        order = sorted(range(len(supports)), key=lambda number: -likeness[number])
        return [supports[number] for number in order]


def vector_of(output: Output, work: Work) -> Vector:
    """Return the output's vector; one without is the model's fault."""
    if output.vector is None:
        raise ModelFailedError(f"model {work.model!r} gave no vector")
    return output.vector


def _embed(
    embedder: str, citations: Sequence[Citation]
) -> Generator[Sequence[Work], Sequence[Output], list[Vector]]:
    works = [Work(embedder, embedding_text(c.passage.title, c.text)) for c in citations]
    outputs = yield works
    return [vector_of(output, work) for output, work in zip(outputs, works, strict=True)]


def _scored(citation: Citation, score: float) -> Citation:
    return Citation(citation.passage, citation.start, citation.end, round(score, _DECIMALS))


def _from_citations(citations: Sequence[Citation], floor: float) -> Reading:
    """Return the first citation's words as the answer, with every citation that reaches the floor."""
    if not citations:  # passages of another version of this service may hold no sentence
        return Reading(None, 0.0)
    best = citations[0]
    if best.score < floor:
        return Reading(None, best.score)
    kept = tuple(citation for citation in citations if citation.score >= floor)
    return Reading(best.text, best.score, kept)
