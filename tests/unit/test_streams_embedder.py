from collections.abc import Sequence

import numpy as np
import pytest

from stream_infer.engine.tokenization import ByteTokenizer
from stream_infer.errors import EngineError, ModelFailedError, OutOfMemoryError
from stream_infer.schemas import Output, Tokens
from stream_infer.streams.embedder import ReplicaEmbedder, split_by_tokens


class FakeRunner:
    """Answers with lengths; raises for batches above `limit` items, and `failures` times before that."""

    def __init__(
        self, *, limit: int = 100, failures: int = 0, error: type[EngineError] = OutOfMemoryError
    ) -> None:
        self.limit = limit
        self.failures = failures
        self.error = error
        self.sizes: list[int] = []

    async def run(
        self, model: str, batch: Sequence[Tokens], options: Sequence[str], *, expected: float
    ) -> list[Output]:
        """Answer or raise."""
        del model, expected
        assert len(options) == len(batch)
        self.sizes.append(len(batch))
        if len(batch) > self.limit or self.failures > 0:
            self.failures -= 1
            raise self.error("as asked")
        return [Output(vector=np.array([len(tokens.ids)], np.float32)) for tokens in batch]


def embedder(runner: FakeRunner, max_batch_tokens: int = 1_000) -> ReplicaEmbedder:
    return ReplicaEmbedder(
        runner,
        ByteTokenizer(),
        model="encoder",
        identity="fake@1",
        max_batch_tokens=max_batch_tokens,
        max_attempts=3,
    )


def tokens(*lengths: int) -> list[Tokens]:
    return [Tokens(np.zeros(length, np.int32)) for length in lengths]


def test_batches_stay_within_the_budget_and_keep_the_order() -> None:
    batches = split_by_tokens(tokens(3, 4, 5, 1), 8)
    assert [[3, 4], [5, 1]] == [[len(item.ids) for item in batch] for batch in batches]


def test_an_item_above_the_budget_goes_alone() -> None:
    batches = split_by_tokens(tokens(1, 20, 1), 8)
    assert [[1], [20], [1]] == [[len(item.ids) for item in batch] for batch in batches]


def test_nothing_makes_no_batch() -> None:
    assert [] == list(split_by_tokens([], 8))


async def test_vectors_come_in_the_order_of_the_texts() -> None:
    runner = FakeRunner()
    vectors = await embedder(runner, max_batch_tokens=6).embed(["aaa", "bb", "cccc", "d"])

    assert [[3], [2], [4], [1]] == [vector.tolist() for vector in vectors]
    assert {np.dtype(np.float16)} == {vector.dtype for vector in vectors}
    assert [2, 2] == runner.sizes


async def test_a_batch_that_is_too_large_for_the_memory_is_halved() -> None:
    runner = FakeRunner(limit=2)
    vectors = await embedder(runner).embed(["a", "bb", "ccc", "dddd", "eeeee"])

    assert [[1], [2], [3], [4], [5]] == [vector.tolist() for vector in vectors]
    assert [5, 2, 3, 1, 2] == runner.sizes


async def test_one_text_is_tried_again_until_the_attempts_are_used_up() -> None:
    assert [[1]] == [vector.tolist() for vector in await embedder(FakeRunner(failures=2)).embed(["a"])]

    with pytest.raises(OutOfMemoryError):
        await embedder(FakeRunner(failures=3)).embed(["a"])


async def test_a_failure_of_the_model_is_not_tried_again() -> None:
    runner = FakeRunner(failures=1, error=ModelFailedError)
    with pytest.raises(ModelFailedError):
        await embedder(runner).embed(["a", "b"])
    assert [2] == runner.sizes
