"""Answers from passages: find the nearest ones, then have a reader answer from them."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass

from stream_infer.errors import EmptyTextError, InvalidFieldError, UnknownCollectionError
from stream_infer.retrieval.index import Hit, PassageIndex, cosine
from stream_infer.retrieval.passages import (
    DEFAULT_COLLECTION,
    DEFAULT_LIMITS,
    Document,
    Passage,
    PassageLimits,
    embedding_text,
    split_document,
)
from stream_infer.schemas import MAX_TOP_K, AnswerBody, Output, Recipe, ResultBody, Work
from stream_infer.tasks.readers import Citation, Question, Reader, Reading, vector_of

_SearchSteps = Generator[Sequence[Work], Sequence[Output], tuple[Output, list[Hit]]]


@dataclass(frozen=True, slots=True)
class AnswerSettings:
    """How passages are found; `embedder` is the model that embedded the passages of the index."""

    embedder: str
    default_collection: str = DEFAULT_COLLECTION
    top_k: int = 3
    limits: PassageLimits = DEFAULT_LIMITS
    language: str = "en"


def answer(body: AnswerBody, reader: Reader, index: PassageIndex, settings: AnswerSettings) -> Recipe:
    """Return the reader's answer with its citations; the answer is None where the reader found none.

    A request with a context is answered from that alone: its passages are numbered from 0, their
    document is None, and spans count in the context's own characters. Without one, spans count in
    the text of the document they name.

    Raises:
        InvalidFieldError: `top_k` is not from 1 to `MAX_TOP_K`.
        EmptyTextError: the context holds no text.
        UnknownCollectionError: the collection holds no passages.
    """
    top_k = settings.top_k if body.top_k is None else body.top_k
    if not 1 <= top_k <= MAX_TOP_K:
        raise InvalidFieldError(f"top_k is {top_k}, not from 1 to {MAX_TOP_K}")
    asked = Work(settings.embedder, body.question)
    if body.context is None:
        collection = body.collection or settings.default_collection
        output, hits = yield from _search_index(asked, collection, top_k, index)
    else:
        output, hits = yield from _search_context(asked, body.context, top_k, settings)
    question = Question(body.question, vector_of(output, asked))
    reading = yield from reader.read(question, hits)
    return _result(reading, truncated=output.truncated)


def _search_index(asked: Work, collection: str, top_k: int, index: PassageIndex) -> _SearchSteps:
    """Return the question's output and the collection's passages nearest to it, best first."""
    if collection not in index.collections:
        raise UnknownCollectionError(f"collection {collection!r} holds no passages")
    (output,) = yield (asked,)
    hits = index.search(collection, vector_of(output, asked), top_k)
    if not hits:
        raise UnknownCollectionError(f"collection {collection!r} was emptied while it was searched")
    return output, hits


def _search_context(asked: Work, context: str, top_k: int, settings: AnswerSettings) -> _SearchSteps:
    """Return the question's output and the context's passages nearest to it, best first."""
    document = Document(collection="", document="", title="", text=context)
    passages = split_document(document, settings.limits, settings.language)
    if not passages:
        raise EmptyTextError("context has no text")
    works = [asked, *(_passage_work(passage, settings.embedder) for passage in passages)]
    outputs = yield works
    question, *vectors = (vector_of(output, work) for output, work in zip(outputs, works, strict=True))
    hits = [Hit(passage, cosine(question, vector)) for passage, vector in zip(passages, vectors, strict=True)]
    hits.sort(key=lambda hit: (-hit.score, hit.passage.number))
    return outputs[0], hits[:top_k]


def _passage_work(passage: Passage, embedder: str) -> Work:
    return Work(embedder, embedding_text(passage.title, passage.text))


def _result(reading: Reading, *, truncated: bool) -> ResultBody:
    result: ResultBody = {
        "answer": reading.answer,
        "score": reading.score,
        "citations": [_citation_body(citation) for citation in reading.citations],
    }
    if truncated:
        result["truncated"] = True
    return result


def _citation_body(citation: Citation) -> dict[str, object]:
    passage = citation.passage
    return {
        "document": passage.document or None,
        "passage": passage.number,
        "text": citation.text,
        "start": passage.start + citation.start,
        "end": passage.start + citation.end,
        "score": citation.score,
    }
