from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream_infer.errors import ModelFailedError, UnsupportedLanguageError
from stream_infer.schemas import Output, Recipe, ResultBody, TranslateBody, Work
from stream_infer.tasks.translation import TranslationModel, translate

Speaker = Callable[[str], str | None]


def model(max_tokens: int = 64, languages: Sequence[str] = ("en-pt", "pt-en")) -> TranslationModel:
    return TranslationModel("tiny", languages, lambda text, _: len(text) <= max_tokens, max_tokens)


def run(recipe: Recipe, speak: Speaker) -> tuple[ResultBody, list[list[Work]]]:
    """Drive a recipe with a model that says `speak` of each text; return the result and the rounds."""
    rounds: list[list[Work]] = []
    outputs: list[Output] | None = None
    while True:
        try:
            works = next(recipe) if outputs is None else recipe.send(outputs)
        except StopIteration as end:
            return end.value, rounds
        rounds.append(list(works))
        outputs = [Output(text=speak(work.text)) for work in works]


def echo(text: str) -> str:
    return text


def texts(works: Sequence[Work]) -> list[str]:
    return [work.text for work in works]


def test_each_sentence_is_work_and_the_gaps_stay() -> None:
    body = TranslateBody("One cat.  Two dogs!\n\n  Three birds?\n")
    result, rounds = run(translate(body, model()), str.swapcase)

    assert [["One cat.", "Two dogs!", "Three birds?"]] == [texts(works) for works in rounds]
    assert {Work("tiny", "One cat.", option="en-pt")} < set(rounds[0])
    assert {"text": "ONE CAT.  TWO DOGS!\n\n  THREE BIRDS?\n", "source": "en", "target": "pt"} == {
        **result,
        "text": str(result["text"]).upper(),
    }


@pytest.mark.parametrize(
    ("source", "target", "expected"),
    [
        (None, None, ("en", "pt")),
        ("pt", None, ("pt", "en")),
        (None, "en", ("pt", "en")),
        ("pt-BR", "EN_us", ("pt", "en")),
    ],
)
def test_the_first_direction_that_fits_is_taken(
    source: str | None, target: str | None, expected: tuple[str, str]
) -> None:
    result, _ = run(translate(TranslateBody("1", source, target), model()), echo)
    assert expected == (result["source"], result["target"])


def test_a_direction_the_model_lacks_is_refused_with_what_it_has() -> None:
    with pytest.raises(UnsupportedLanguageError, match=r"from de to any language; it has en-pt, pt-en"):
        run(translate(TranslateBody("x", source="de"), model()), echo)


@pytest.mark.parametrize("text", ["1234 56", "{name}", "%s: https://a.b/c", "…!", "🎉"])
def test_a_text_without_words_comes_back_without_work(text: str) -> None:
    result, rounds = run(translate(TranslateBody(text), model()), echo)
    assert text == result["text"]
    assert not rounds


def test_placeholders_are_masked_for_the_model_and_come_back() -> None:
    body = TranslateBody("Hi {name}, <b>save</b> %d files at https://a.b/c!")
    result, rounds = run(translate(body, model()), lambda text: text.replace("files", "arquivos"))

    assert [["Hi Q1Q, Q2Q save Q3Q Q4Q files at Q5Q!"]] == [texts(works) for works in rounds]
    assert "Hi {name}, <b>save</b> %d arquivos at https://a.b/c!" == result["text"]


def test_a_lost_placeholder_is_repaired_by_translating_around_it() -> None:
    body = TranslateBody("Dear {name}, welcome back!")
    result, rounds = run(
        translate(body, model()), lambda text: text.replace("Q1Q", "").replace("Dear", "Caro")
    )

    assert ["Dear", ", welcome back!"] == texts(rounds[-1])
    assert "Caro {name}, welcome back!" == result["text"]


def test_a_lost_number_is_masked_on_a_second_try() -> None:
    body = TranslateBody("The order 48213 is late.")
    result, rounds = run(translate(body, model()), lambda text: text.replace("48213", "4"))

    assert ["The order Q1Q is late."] == texts(rounds[1])
    assert "The order 48213 is late." == result["text"]


@given(
    st.lists(
        st.sampled_from(["{a}", "%s", "<i>", "</i>", "a@b.cd", "48213", "cat", "Dog", ". ", " ", "\n", "!"])
    ),
    st.sampled_from(
        [str.upper, str.lower, lambda text: text.replace("Q", ""), lambda _: "", lambda _: "x Q1Q Q1Q"]
    ),
)
def test_whatever_the_model_says_every_placeholder_survives(parts: list[str], speak: Speaker) -> None:
    text = " ".join(parts)
    result, rounds = run(translate(TranslateBody(text), model()), speak)

    for kept in ("{a}", "%s", "<i>", "</i>", "a@b.cd", "48213"):
        assert text.count(kept) <= str(result["text"]).count(kept)
    assert 3 >= len(rounds)


def test_a_sentence_beyond_the_limit_is_cut_at_clauses_then_words() -> None:
    text = "first clause here, second clause here, third clause, " + "word " * 12 + "end"
    result, rounds = run(translate(TranslateBody(text), model(max_tokens=40)), echo)

    assert all(len(work.text) <= 40 for work in rounds[0])
    assert ["first clause here,", "second clause here, third clause,"] == texts(rounds[0])[:2]
    assert text == result["text"]


def test_a_word_beyond_the_limit_is_cut_and_joined_again() -> None:
    result, rounds = run(translate(TranslateBody("a" * 100), model(max_tokens=30)), echo)
    assert 4 == len(rounds[0])
    assert "a" * 100 == result["text"]


@pytest.mark.parametrize(
    "text",
    ["olá,{user_name}" * 150, "a{x}" * 200, "<b>漢字</b>" * 60, "." * 5_000, "{only_this}" * 40],
)
def test_a_sentence_without_gaps_is_cut_beside_placeholders_and_joined_as_it_was(text: str) -> None:
    """No half of a placeholder reaches the model, and no space comes in where there was none."""
    result, rounds = run(translate(TranslateBody(text), model(max_tokens=64)), echo)

    assert text == result["text"]
    assert not any(mark in work for works in rounds for work in texts(works) for mark in "{}<>")


def test_a_long_sentence_of_many_placeholders_comes_back() -> None:
    text = "a {x} " * 5_000
    result, _ = run(translate(TranslateBody(text), model(max_tokens=64)), echo)

    assert text == result["text"]


def test_characters_that_become_many_are_not_taken_for_a_short_text() -> None:
    asked: list[str] = []

    def fits(text: str, _direction: str) -> bool:
        asked.append(text)
        return len(text) <= 10

    short = TranslationModel("translator", ("en-pt",), fits, max_tokens=64)
    run(translate(TranslateBody("ﷺ" * 20), short), echo)

    assert "ﷺ" * 20 in asked


def test_capitals_are_calmed_for_the_model_and_put_back() -> None:
    result, rounds = run(translate(TranslateBody("READ THIS {x} NOW!"), model()), echo)
    assert ["Read this Q1Q now!"] == texts(rounds[0])
    assert "READ THIS {x} NOW!" == result["text"]


def test_sentences_that_touch_get_a_space_where_the_target_has_one() -> None:
    touching = TranslateBody("第一句。第二句。", "zh", "en")
    result, _ = run(translate(touching, model(languages=("zh-en",))), lambda _: "Yes.")
    assert "Yes. Yes." == result["text"]


def test_a_cut_translation_is_marked() -> None:
    recipe = translate(TranslateBody("One cat."), model())
    next(recipe)
    with pytest.raises(StopIteration) as end:
        recipe.send([Output(text="Um", truncated=True)])
    assert {"text": "Um.", "source": "en", "target": "pt", "truncated": True} == end.value.value


def test_an_output_without_text_is_the_models_failure() -> None:
    with pytest.raises(ModelFailedError, match="tiny"):
        run(translate(TranslateBody("One cat."), model()), lambda _: None)
