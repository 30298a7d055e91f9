import random
from statistics import median

import pytest

from loadgen.bench.contender import ContenderError
from loadgen.bench.mixed_texts import LEAST, MEDIAN, MOST, SPECIAL, draw_length, mixed_texts
from loadgen.bench.rounds import compete, turns


def test_each_round_begins_with_another_contender() -> None:
    assert "abcbcacab" == "".join(name for _, name in turns("abc", 3))


def test_nobody_to_compete_takes_no_turns() -> None:
    assert [] == list(turns([], 3))


def test_figures_are_kept_by_round() -> None:
    figures = {"a": iter([1.0, 2.0, 3.0]), "b": iter([4.0, 5.0, 6.0])}
    shown: list[str] = []
    tally = compete({name: lambda name=name: next(figures[name]) for name in figures}, 3, shown.append)  # type: ignore[misc]

    assert {"a": [1.0, 2.0, 3.0], "b": [4.0, 5.0, 6.0]} == tally.figures
    assert ["round 1 of 3, a", "round 1 of 3, b", "round 2 of 3, b"] == shown[:3]


def test_who_fails_is_out_and_the_others_go_on() -> None:
    figures = iter([1.0])

    def fails_in_its_second_round() -> float:
        try:
            return next(figures)
        except StopIteration:
            raise ContenderError("died") from None

    tally = compete({"a": fails_in_its_second_round, "b": lambda: 2.0}, 3, lambda _: None)

    assert {"b": [2.0, 2.0, 2.0]} == tally.figures
    assert ["died"] == [str(error) for error in tally.out.values()]


def word_sizes(words: list[str]) -> list[int]:
    return [1 + len(word) // 8 for word in words]


@pytest.fixture(scope="module")
def texts() -> list[str]:
    return mixed_texts(word_sizes, 500)  # type: ignore[arg-type] # the words are a list


def test_texts_are_different_and_as_many_as_asked_for(texts: list[str]) -> None:
    assert 500 == len(set(texts)) == len(texts)


def test_lengths_are_about_the_median_and_within_the_limits(texts: list[str]) -> None:
    lengths = [SPECIAL + sum(word_sizes(text.split())) for text in texts]

    assert MEDIAN - 2 <= median(lengths) <= MEDIAN + 2
    assert max(lengths) <= MOST + 4
    assert 5 * MEDIAN < max(lengths)


def test_texts_are_the_same_ones_for_a_seed(texts: list[str]) -> None:
    assert texts == mixed_texts(word_sizes, 500)  # type: ignore[arg-type] # as above
    assert texts != mixed_texts(word_sizes, 500, seed=8)  # type: ignore[arg-type] # as above


def test_drawn_lengths_keep_the_limits() -> None:
    draw = random.Random(1)
    lengths = [draw_length(draw) for _ in range(20_000)]

    assert LEAST <= min(lengths)
    assert MOST >= max(lengths)
    assert MEDIAN - 1 <= median(lengths) <= MEDIAN + 1
