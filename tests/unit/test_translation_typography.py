# ruff: noqa: RUF001  # marks of other scripts are what is put
from __future__ import annotations

import pytest

from stream_infer.tasks.typography import calm, is_shouted, match_typography


@pytest.mark.parametrize(
    ("source", "translation", "expected"),
    [
        ("Hello.", "Olá", "Olá."),
        ("Hello", "Olá.", "Olá"),
        ("Really?!", "Sério.", "Sério?!"),
        ("Loading…", "Carregando...", "Carregando…"),
        ("Wait...", "Espere.", "Espere..."),
        ("Name:", "Nome :", "Nome:"),
        ("invalid choice", "Escolha inválida", "escolha inválida"),
        ("by Anna", "Anna", "Anna"),
        ("Invalid choice", "escolha inválida", "Escolha inválida"),
        ("iPhone is here", "O iPhone chegou", "O iPhone chegou"),
        ("He (the cat) said", "Ele ( o gato ) disse", "Ele (o gato) disse"),
        ("Rename the .env file", "Renomeie o arquivo .env agora", "Renomeie o arquivo .env agora"),
        ("Thanks :)", "Obrigado :)", "Obrigado :)"),
        ("Press “OK” now", 'Pressione "OK" agora', "Pressione “OK” agora"),
        ('Say "no".', 'Diga "não"', 'Diga "não"'),
    ],
)
def test_the_translation_is_written_as_the_source_is(source: str, translation: str, expected: str) -> None:
    assert expected == match_typography(source, translation, "pt")


@pytest.mark.parametrize(
    ("language", "translation", "expected"),
    [
        ("zh", "你好", "你好。"),
        ("el", "Τι;", "Τι;"),
        ("de", "Haus", "Haus?"),
        ("fr", "Vraiment ?", "Vraiment ?"),
    ],
)
def test_marks_are_those_of_the_target_language(language: str, translation: str, expected: str) -> None:
    source = {"zh": "Hello.", "el": "What?", "de": "house?", "fr": "Really?"}[language]
    assert expected == match_typography(source, translation, language)


def test_capitals_throughout_are_calmed_but_not_abbreviations() -> None:
    assert is_shouted("I AM HERE!")
    assert not is_shouted("HTTPS")
    assert not is_shouted("12 345")
    assert "I am here, am I?" == calm("I AM HERE, AM I?", "en")
