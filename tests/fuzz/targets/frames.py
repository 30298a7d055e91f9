"""Frames between the loop's process and a replica's."""

from __future__ import annotations

import asyncio
from functools import cache

import numpy as np

from stream_infer.engine.wire import (
    decode_batch,
    decode_outputs,
    encode_batch,
    encode_outputs,
    pack_frame,
    read_frame,
)
from stream_infer.schemas import Output, Tokens
from tests.fuzz.feed import Feed
from tests.fuzz.target import Target, finished


def check_stream(data: bytes) -> None:
    """What comes from a replica is a map, the end, or a broken connection; nothing else is raised."""
    reader = asyncio.StreamReader(loop=_loop())
    reader.feed_data(data)
    reader.feed_eof()
    while (message := finished(read_frame(reader))) is not None:
        assert isinstance(message, dict)


def check_batch(data: bytes) -> None:
    """A batch and its outputs arrive as they were sent."""
    feed = Feed(data)
    batch = [
        Tokens(np.frombuffer(feed.piece()[:64], np.uint8).astype(np.int32), bool(feed.below(2)))
        for _ in range(1 + feed.below(5))
    ]
    options = [feed.text() for _ in batch]
    model, read, read_options = decode_batch(encode_batch("mood", batch, options, 2))
    assert ("mood", options) == (model, read_options)
    assert [(t.ids.tolist(), t.truncated) for t in batch] == [(t.ids.tolist(), t.truncated) for t in read]
    outputs = [
        Output(
            np.frombuffer(feed.piece(), np.uint8).astype(np.float16) if feed.below(2) else None, feed.text()
        )
        for _ in batch
    ]
    for sent, got in zip(outputs, decode_outputs(encode_outputs(outputs)), strict=True):
        assert (sent.text, sent.truncated) == (got.text, got.truncated)
        assert _numbers(sent) == _numbers(got)


def _numbers(output: Output) -> list[float] | None:
    return None if output.vector is None else output.vector.tolist()


@cache
def _loop() -> asyncio.AbstractEventLoop:
    """Return what a reader must have, and needs only to wait."""
    return asyncio.new_event_loop()


_FRAME = pack_frame({"number": 1, "outputs": [[b"\0<", "<f2", None, False]]})
TARGETS = (
    Target("frames", check_stream, (_FRAME + _FRAME, _FRAME[:-1]), max_bytes=128),
    Target("batches", check_batch, (b"\1\3abc\1\2de\0\2en\1x\1\2ab\1a\0\1b",), max_bytes=128),
)
