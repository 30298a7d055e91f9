"""Sentences that the honesty check translates, by the language they are in."""

from __future__ import annotations

from typing import Final

from stream_infer.engine.sample import SENTENCES

PORTUGUESE: Final = (
    "A encomenda chegou dois dias antes e nada estava quebrado.",
    "Já pedi o reembolso três vezes e ninguém me respondeu.",
    "A reunião foi adiada para quinta-feira às nove e meia, na sala pequena.",
    "Que noite maravilhosa, obrigado a todos por terem vindo!",
    "A bateria acaba em uma hora, o que torna o aparelho inútil.",
    "Há algum trem para o aeroporto depois da meia-noite?",
    "Funciona.",
    "Ela plantou uma macieira atrás da casa na primavera de 1987.",
    "Por favor, envie o formulário assinado ao escritório antes do fim do mês.",
    "O número do meu pedido é 48213 e a nota fiscal mostra o endereço errado.",
    "Embora os críticos tenham elogiado o filme, a maior parte do público saiu antes do fim.",
    "A ponte foi fechada na segunda-feira porque o rio subiu quase dois metros em uma só noite.",
    "Alguém pode explicar por que o mesmo pedido dá duas respostas diferentes?",
    "Não abra a tampa enquanto a máquina estiver em funcionamento.",
    "O pacote pesa 2,5 kg e mede 30 por 20 por 15 centímetros.",
    "Ninguém se feriu, mas os dois carros tiveram de ser rebocados.",
)


def sample_sentences(language: str) -> tuple[str, ...]:
    """Return the sample in `language`, or the English one where there is none."""
    return PORTUGUESE if language.startswith(("pt", "por")) else SENTENCES[: len(PORTUGUESE)]
