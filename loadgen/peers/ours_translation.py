"""The service's own translation: every text's recipe, its sentences batched with those of the others."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from loadgen.peers.ours import NAME, Engine
from loadgen.peers.setup import Run, Setup
from stream_infer.config import ModelSettings
from stream_infer.engine.specs import ModelKind, Precision
from stream_infer.schemas import Output, Recipe, ResultBody, TranslateBody, Work
from stream_infer.tasks.translation import TranslationModel, translate


class Translation:
    """Recipes driven together: what all of them ask for next runs at once."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        info = engine.backend.info
        self._model = TranslationModel(NAME, info.languages, self._fits, info.max_tokens)

    def __call__(self, texts: Sequence[str]) -> list[str]:
        """Return the translation of each text, in the model's first direction."""
        results: dict[int, ResultBody] = {}
        recipes = dict(enumerate(translate(TranslateBody(text), self._model) for text in texts))
        answers: dict[int, Sequence[Output] | None] = dict.fromkeys(recipes)
        while answers:
            asked = {}
            for place, outputs in answers.items():
                try:
                    asked[place] = _advance(recipes[place], outputs)
                except StopIteration as end:
                    results[place] = end.value
            answers = self._answer(asked)
        return [str(results[place]["text"]) for place in recipes]

    def _answer(self, asked: dict[int, Sequence[Work]]) -> dict[int, Sequence[Output] | None]:
        works = [work for some in asked.values() for work in some]
        outputs = iter(self._engine.run(works) if works else [])
        return {place: [next(outputs) for _ in some] for place, some in asked.items()}

    def _fits(self, text: str, direction: str) -> bool:
        return not self._engine.tokenizer.encode([Work(NAME, text, option=direction)])[0].truncated


def _advance(recipe: Recipe, outputs: Sequence[Output] | None) -> Sequence[Work]:
    return next(recipe) if outputs is None else recipe.send(outputs)


def load(setup: Setup) -> Run:
    """Return the engine as a translator."""
    torch.set_num_threads(setup.threads)
    return Translation(engine_of(setup))


def engine_of(setup: Setup) -> Engine:
    """Return the engine with a translation model."""
    settings = ModelSettings(
        kind=ModelKind.TRANSLATE,
        source=setup.model,
        precision=Precision(setup.precision),
        device=setup.device,
        min_agreement=setup.min_agreement,
    )
    return Engine(settings)
