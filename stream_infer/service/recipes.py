"""Which recipe a request follows: each stream's task, with the parts of its model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from stream_infer.config import Settings, StreamSettings
from stream_infer.engine.heads import Head, load_head
from stream_infer.engine.sources import resolve
from stream_infer.engine.specs import ModelKind
from stream_infer.engine.tokenization import Tokenizer
from stream_infer.errors import ConfigError
from stream_infer.retrieval.index import PassageIndex
from stream_infer.schemas import ModelInfo, Recipe, Request, Task, Work
from stream_infer.tasks.answering import AnswerSettings, answer
from stream_infer.tasks.classification import Judge, classify
from stream_infer.tasks.prompts import Prompter
from stream_infer.tasks.readers import ExtractiveReader, GenerativeReader, Reader, SentenceReader
from stream_infer.tasks.translation import TranslationModel, translate

MAX_PROMPT_TOKENS = 768
"""Room for the question and three passages; a longer prompt costs more than it finds."""

Maker = Callable[[Any], Recipe]
"""Makes the recipe of a body; the codec has seen to it that the body is of the stream's task."""


class RecipeBook:
    """The recipes of every stream of a worker, made of its loaded models.

    Raises:
        ConfigError: a model lacks what its stream's task needs.
    """

    def __init__(
        self,
        settings: Settings,
        infos: Mapping[str, ModelInfo],
        tokenizers: Mapping[str, Tokenizer],
        index: PassageIndex,
    ) -> None:
        self._settings = settings
        self._infos = infos
        self._tokenizers = tokenizers
        self._index = index
        self._makers = {name: self._maker(name, stream) for name, stream in settings.streams.items()}

    def recipe(self, request: Request) -> Recipe:
        """Return the recipe that turns `request` into its result."""
        return self._makers[request.stream](request.body)

    def _maker(self, name: str, stream: StreamSettings) -> Maker:
        match stream.task:
            case Task.CLASSIFY:
                return partial(classify, model=stream.model, judge=Judge(self._head(name, stream.model)))
            case Task.TRANSLATE:
                return partial(translate, model=self._translation_model(stream.model))
            case Task.ANSWER:
                reader = self._reader(stream)
                settings = self._answer_settings(stream.model)
                return partial(answer, reader=reader, index=self._index, settings=settings)

    def _head(self, stream: str, model: str) -> Head:
        settings = self._settings.models[model]
        if head := load_head(resolve(settings.source), settings.kind):
            return head
        if labels := self._infos[model].labels:
            return Head(labels)
        raise ConfigError(
            f"streams.{stream}.model: {model!r} ({settings.source}) has no labels to classify with"
        )

    def _translation_model(self, model: str) -> TranslationModel:
        tokenizer = self._tokenizers[model]

        def fits(text: str, direction: str) -> bool:
            return not tokenizer.encode([Work(model, text, option=direction)])[0].truncated

        return TranslationModel(model, self._infos[model].languages, fits, tokenizer.max_tokens)

    def _answer_settings(self, embedder: str) -> AnswerSettings:
        retrieval = self._settings.retrieval
        return AnswerSettings(embedder, retrieval.default_collection, retrieval.top_k)

    def _reader(self, stream: StreamSettings) -> Reader:
        sentences = SentenceReader(stream.model, self._settings.retrieval.min_score)
        if (model := stream.reader_model) is None:
            return sentences
        tokenizer = self._tokenizers[model]
        if self._settings.models[model].kind is ModelKind.EXTRACT:
            return ExtractiveReader(model, tokenizer.spans)
        return GenerativeReader(model, sentences, self._prompter(model, tokenizer))

    @staticmethod
    def _prompter(model: str, tokenizer: Tokenizer) -> Prompter:
        def count(text: str) -> int:
            return len(tokenizer.encode([Work(model, text)])[0].ids)

        return Prompter(count, min(tokenizer.max_tokens, MAX_PROMPT_TOKENS))
