"""Where texts are tokenised: in the event loop only what is short, all of it together."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import pytest

from stream_infer.errors import ModelFailedError
from stream_infer.schemas import Tokens, Work
from stream_infer.service.inference import SHORT_CHARS, tokenise


class Tokenizer:
    """Notes in which thread it works."""

    def __init__(self) -> None:
        self.threads: list[int] = []

    def encode(self, works: Sequence[Work]) -> list[Tokens]:
        """Return a token for each text that is not empty."""
        self.threads.append(threading.get_ident())
        return [Tokens(np.array([1], np.int32)) for work in works if work.text]


@pytest.mark.parametrize(
    ("works", "is_short"),
    [
        ([Work("m", "x" * SHORT_CHARS)], True),
        ([Work("m", "x" * (SHORT_CHARS + 1))], False),
        ([Work("m", "x" * (SHORT_CHARS // 2))] * 3, False),
        ([Work("m", "x", pair="x" * SHORT_CHARS)], False),
    ],
)
async def test_only_short_work_stays_in_the_event_loop(works: list[Work], *, is_short: bool) -> None:
    tokenizer = Tokenizer()

    assert len(works) == len(await tokenise(cast("Any", tokenizer), works))
    assert is_short == (tokenizer.threads == [threading.get_ident()])


@pytest.mark.parametrize("text", ["", "x" * SHORT_CHARS])
async def test_every_piece_must_get_tokens(text: str) -> None:
    with pytest.raises(ModelFailedError, match="token sequences"):
        await tokenise(cast("Any", Tokenizer()), [Work("m", text), Work("m", ""), Work("m", "xx")])
