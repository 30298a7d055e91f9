"""What crosses between a service and its replicas comes out as it went in."""

import asyncio
import socket

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from stream_infer.engine.specs import ModelKind, ModelSpec, Precision
from stream_infer.engine.wire import (
    decode_batch,
    decode_info,
    decode_outputs,
    decode_spec,
    encode_batch,
    encode_info,
    encode_outputs,
    encode_spec,
    pack_frame,
    read_frame,
    receive_frame,
    send_frame,
)
from stream_infer.schemas import ModelInfo, Output, Tokens

IDS = st.lists(st.integers(0, 2**31 - 1), max_size=6)


def through_the_wire(message: dict[str, object]) -> dict[str, object]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        send_frame(ours, message)
        received = receive_frame(theirs)
    assert received is not None
    return received


@given(st.lists(st.tuples(IDS, st.booleans(), st.text(max_size=5)), min_size=1, max_size=5))
def test_batches_arrive_as_they_were_sent(items: list[tuple[list[int], bool, str]]) -> None:
    """Ids, marks of truncation and options keep their items."""
    batch = [Tokens(np.array(ids, np.int32), cut) for ids, cut, _ in items]

    message = through_the_wire(encode_batch("model", batch, [option for _, _, option in items], threads=2))
    model, received, options = decode_batch(message)

    assert "model" == model
    assert [option for _, _, option in items] == options
    assert [(ids, cut) for ids, cut, _ in items] == [(text.ids.tolist(), text.truncated) for text in received]


VECTORS = (np.array([1.5, -2.25, 0.1], np.float16), np.array([1.5, -2.25, 0.1], np.float32))


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: str(vector.dtype))
def test_outputs_arrive_as_they_were_sent(vector: NDArray[np.float16 | np.float32]) -> None:
    """Vectors keep their bits and type, texts their characters, and both may come in one batch."""
    outputs = [Output(vector=vector), Output(text="olá", truncated=True)]

    first, second = decode_outputs(through_the_wire(encode_outputs(outputs)))

    assert first.vector is not None
    assert vector.dtype == first.vector.dtype
    assert np.array_equal(vector, first.vector)
    assert outputs[1] == second


def test_descriptions_arrive_as_they_were_sent() -> None:
    """Specs keep their enumerations and infos their tuples."""
    spec = ModelSpec("m", ModelKind.EMBED, "path:x", Precision.INT8, "cpu", {"min_agreement": 0.5})
    info = ModelInfo("m", "path:x", "1", "int8", "cpu", 8, labels=("a", "b"), languages=("en-pt",))

    assert spec == decode_spec(through_the_wire(encode_spec(spec)))
    assert info == decode_info(through_the_wire(encode_info(info)))


async def test_a_closed_connection_ends_the_frames() -> None:
    """Both readers say so when the other side is gone, even within a frame."""
    reader = asyncio.StreamReader()
    reader.feed_data(pack_frame({"a": 1}) + pack_frame({"b": 2})[:-1])
    reader.feed_eof()
    ours, theirs = socket.socketpair()
    with theirs:
        ours.sendall(pack_frame({"a": 1})[:-1])
        ours.close()

        assert receive_frame(theirs) is None
    assert {"a": 1} == await read_frame(reader)
    assert await read_frame(reader) is None
