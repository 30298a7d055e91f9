"""The prompt that a generative reader is given: question and passages, within the model's limit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

_SYSTEM: Final = (
    "You answer questions from the passages you are given, in one short sentence."
    " If the passages do not hold the answer, you say: no answer."
)
_TURN: Final = "<|im_start|>"
_CHAT: Final = (
    "<|im_start|>system\n{system}<|im_end|>\n"
    "<|im_start|>user\nPassages:\n{passages}\n\nQuestion: {question}<|im_end|>\n"
    "<|im_start|>assistant\n"
)
_PLAIN: Final = "{system}\n\nPassages:\n{passages}\n\nQuestion: {question}\nAnswer:"
_REFUSALS: Final = frozenset({"", "no answer", "unanswerable", "none", "n/a"})
_STEP: Final = 0.9


@dataclass(frozen=True, slots=True)
class Prompt:
    """A prompt, and how many of the passages it shows, the first ones."""

    text: str
    shown: int


@dataclass(frozen=True, slots=True)
class Prompter:
    """Writes prompts of at most `max_tokens`, as `count` counts them."""

    count: Callable[[str], int]
    max_tokens: int

    @property
    def is_chat(self) -> bool:
        """Whether the model knows conversations in ChatML (SmolLM2, Qwen); others get plain text."""
        return self.count(_TURN) == 1

    def write(self, question: str, passages: Sequence[str]) -> Prompt:
        """Return the prompt with as many passages as there is room for; the last may be cut short."""
        room = self.max_tokens - self.count(self._fill(question, ""))
        shown: list[str] = []
        for passage in map(_defuse, passages):
            line = self._fit(f"- {passage}\n", room)
            if not line:
                break
            shown.append(line)
            room -= self.count(line)
        return Prompt(self._fill(question, "".join(shown).rstrip("\n")), len(shown))

    def declines(self, answer: str) -> bool:
        """Return whether the model says, in its way, that it has no answer."""
        return answer.strip(" .!\n").lower() in _REFUSALS

    def _fill(self, question: str, passages: str) -> str:
        form = _CHAT if self.is_chat else _PLAIN
        return form.format(system=_SYSTEM, passages=passages, question=_defuse(question))

    def _fit(self, line: str, room: int) -> str:
        """Return the line's beginning that takes at most `room` tokens, or nothing if little is left."""
        whole = len(line)
        while (tokens := self.count(line)) > room:
            words = line[: int(len(line) * min(_STEP, max(room, 0) / tokens))].rpartition(" ")[0]
            if len(words) * 4 < min(whole, 200):
                return ""
            line = f"{words}\n"
        return line


def _defuse(text: str) -> str:
    """Return the text on one line and without marks that would end its turn in the conversation."""
    return " ".join(text.replace("<|", "< |").replace("|>", "| >").split())
