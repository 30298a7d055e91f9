"""Scores of results against what was expected; all are shares from 0 to 1 but BLEU and chrF, to 100."""

from __future__ import annotations

import importlib
import re
import string
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from itertools import zip_longest
from statistics import fmean
from typing import Any, Final

from stream_infer.errors import ConfigError
from stream_infer.evaluation.examples import Example
from stream_infer.schemas import ResultBody, Task

Results = Sequence[ResultBody | None]

_ARTICLES: Final = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION: Final = str.maketrans("", "", string.punctuation)


def evaluate(task: Task, examples: Sequence[Example], results: Results) -> dict[str, float]:
    """Return the task's scores by name.

    `results` are the bodies that the service made of the examples' bodies, in the same order, with
    None for dead letters: these count as wrong and are told apart as `failed`, a share.

    - classify: `accuracy`, `macro_f1`, `f1.LABEL`
    - translate: `bleu`, `chrf`
    - answer: `exact_match`, `f1`; where the examples say in which passage the answer stands,
      `recall_at_1` and `recall_at_3` over the citations; where some have no answer, `refused`, the
      share of those that got none, and `answered`, the share of the others that got one

    Raises:
        ConfigError: the library that computes the scores is not installed.
        ValueError: there are no examples, or not one result for each.
    """
    if not examples or len(examples) != len(results):
        raise ValueError(f"{len(results)} results for {len(examples)} examples")
    failed = fmean(result is None for result in results)
    return {"examples": float(len(examples)), "failed": failed, **_SCORERS[task](examples, results)}


def _score_labels(examples: Sequence[Example], results: Results) -> dict[str, float]:
    metrics = _require("sklearn.metrics", "scikit-learn")
    expected = [example.expected[0] for example in examples]
    given = [str(result["label"]) if result else "" for result in results]
    labels = sorted(set(expected))
    by_label = metrics.f1_score(expected, given, labels=labels, average=None, zero_division=0)
    return {
        "accuracy": float(metrics.accuracy_score(expected, given)),
        "macro_f1": fmean(by_label.tolist()),
        **{f"f1.{label}": float(score) for label, score in zip(labels, by_label, strict=True)},
    }


def _score_translations(examples: Sequence[Example], results: Results) -> dict[str, float]:
    sacrebleu = _require("sacrebleu", "sacrebleu")
    given = [str(result["text"]) if result else "" for result in results]
    # sacrebleu wants the first reference of each example, then the second of each, and so on.
    references = [list(row) for row in zip_longest(*(example.expected for example in examples))]
    return {
        "bleu": float(sacrebleu.corpus_bleu(given, references).score),
        "chrf": float(sacrebleu.corpus_chrf(given, references).score),
    }


def _score_answers(examples: Sequence[Example], results: Results) -> dict[str, float]:
    answers = [result.get("answer") if result else None for result in results]
    texts = [None if answer is None else str(answer) for answer in answers]
    pairs = list(zip(examples, texts, strict=True))
    answerable = [text is not None for example, text in pairs if example.expected]
    others = [text is None for example, text in pairs if not example.expected]
    scores = {
        "exact_match": fmean(_best(exact_match, text, example) for example, text in pairs),
        "f1": fmean(_best(word_f1, text, example) for example, text in pairs),
    }
    if answerable and others:
        scores |= {"answered": fmean(answerable), "refused": fmean(others)}
    return scores | _score_citations(examples, results)


def _best(score: Callable[[str, str], float], text: str | None, example: Example) -> float:
    """Return the score against the most similar right answer; no answer is right where there is none."""
    if text is None or not example.expected:
        return float(text is None and not example.expected)
    return max(score(text, right) for right in example.expected)


def exact_match(given: str, right: str) -> float:
    """Return 1 if the answers are the same words, else 0 (SQuAD; Rajpurkar et al., 2016)."""
    return float(_words(given) == _words(right))


def word_f1(given: str, right: str) -> float:
    """Return the harmonic mean of precision and recall over words (SQuAD; Rajpurkar et al., 2016)."""
    given_words, right_words = _words(given), _words(right)
    if not given_words or not right_words:
        return float(given_words == right_words)
    shared = sum((Counter(given_words) & Counter(right_words)).values())
    return 2 * shared / (len(given_words) + len(right_words))


def _words(answer: str) -> list[str]:
    """Return the words that count: in lower case, without punctuation and English articles."""
    return _ARTICLES.sub(" ", answer.lower().translate(_PUNCTUATION)).split()


def _score_citations(examples: Sequence[Example], results: Results) -> dict[str, float]:
    places = [
        (result, (example.document, example.passage))
        for example, result in zip(examples, results, strict=True)
        if example.passage is not None
    ]
    if not places:
        return {}
    return {
        f"recall_at_{count}": fmean(_cites(result, place, count) for result, place in places)
        for count in (1, 3)
    }


def _cites(result: ResultBody | None, place: tuple[str | None, int | None], count: int) -> bool:
    citations: Any = result["citations"] if result else ()
    return any((cited["document"], cited["passage"]) == place for cited in citations[:count])


_SCORERS: Final[Mapping[Task, Callable[[Sequence[Example], Results], dict[str, float]]]] = {
    Task.CLASSIFY: _score_labels,
    Task.TRANSLATE: _score_translations,
    Task.ANSWER: _score_answers,
}


def _require(module: str, package: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ConfigError(
            f"these scores need {package}; install it with: pip install 'stream-infer[train]'"
        ) from error
