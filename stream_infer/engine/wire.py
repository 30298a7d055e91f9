"""Frames between a service and its replicas: four bytes of length, big-endian, then a msgpack map.

Token ids and vectors cross as raw little-endian bytes. Nothing is pickled.
"""

from __future__ import annotations

import dataclasses
import socket
import struct
from asyncio import IncompleteReadError, StreamReader
from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgpack
import numpy as np

from stream_infer.engine.specs import ModelKind, ModelSpec, Precision
from stream_infer.schemas import ModelInfo, Output, Tokens

Message = dict[str, Any]

_HEADER: Final = struct.Struct(">I")
_MAX_BYTES: Final = 1 << 30
_MAX_READ_BYTES: Final = 1 << 20
"""Room made for one read: a length is believed only as far as the bytes come."""


def pack_frame(message: Mapping[str, Any]) -> bytes:
    """Return the bytes of one frame."""
    body: bytes = msgpack.packb(message)
    return _HEADER.pack(len(body)) + body


def send_frame(connection: socket.socket, message: Mapping[str, Any]) -> None:
    """Send one frame, blocking until it is with the kernel."""
    connection.sendall(pack_frame(message))


def receive_frame(connection: socket.socket) -> Message | None:
    """Return the next frame, or None when the other side has closed."""
    header = _receive_exactly(connection, _HEADER.size)
    if header is None:
        return None
    body = _receive_exactly(connection, _body_length(header))
    return None if body is None else _unpack(body)


async def read_frame(reader: StreamReader) -> Message | None:
    """Return the next frame, or None when the other side has closed or died."""
    try:
        header = await reader.readexactly(_HEADER.size)
        return _unpack(await reader.readexactly(_body_length(header)))
    except (IncompleteReadError, ConnectionError):
        return None


def encode_batch(model: str, batch: Sequence[Tokens], options: Sequence[str], threads: int) -> Message:
    """Return the message that asks for a batch to be run on so many threads."""
    return {
        "model": model,
        "threads": threads,
        "ids": np.concatenate([tokens.ids for tokens in batch]).astype("<i4", copy=False).tobytes(),
        "lengths": [len(tokens.ids) for tokens in batch],
        "truncated": [tokens.truncated for tokens in batch],
        "options": list(options),
    }


def decode_batch(message: Message) -> tuple[str, list[Tokens], list[str]]:
    """Return the model's name, the tokens and the options that `encode_batch` was given."""
    ends = np.cumsum(message["lengths"])
    texts = np.split(np.frombuffer(message["ids"], "<i4"), ends[:-1])
    batch = [Tokens(ids, cut) for ids, cut in zip(texts, message["truncated"], strict=True)]
    return message["model"], batch, message["options"]


def encode_outputs(outputs: Sequence[Output]) -> Message:
    """Return the message that answers a batch."""
    return {"outputs": [_encode_output(output) for output in outputs]}


def decode_outputs(message: Message) -> list[Output]:
    """Return the outputs that `encode_outputs` was given."""
    return [
        Output(None if vector is None else np.frombuffer(vector, dtype), text, truncated)
        for vector, dtype, text, truncated in message["outputs"]
    ]


def encode_spec(spec: ModelSpec) -> Message:
    """Return a model's description as a message."""
    return dataclasses.asdict(spec)


def decode_spec(message: Message) -> ModelSpec:
    """Return the description that `encode_spec` was given."""
    kind, precision = ModelKind(message["kind"]), Precision(message["precision"])
    return ModelSpec(**message | {"kind": kind, "precision": precision})


def encode_info(info: ModelInfo) -> Message:
    """Return what a model says of itself as a message."""
    return dataclasses.asdict(info)


def decode_info(message: Message) -> ModelInfo:
    """Return what `encode_info` was given."""
    sequences = {"labels": tuple(message["labels"]), "languages": tuple(message["languages"])}
    return ModelInfo(**message | sequences)


def _encode_output(output: Output) -> tuple[bytes | None, str, str | None, bool]:
    if output.vector is None:
        return None, "", output.text, bool(output.truncated)
    vector = np.ascontiguousarray(output.vector)
    return vector.tobytes(), vector.dtype.str, output.text, bool(output.truncated)


def _body_length(header: bytes) -> int:
    (length,) = _HEADER.unpack(header)
    if length > _MAX_BYTES:
        raise ConnectionError(f"a frame of {length} bytes: the two sides are out of step")
    return int(length)


def _unpack(body: bytes) -> Message:
    """Return a frame's map; with any other bytes the connection is of no more use."""
    try:
        message = msgpack.unpackb(body)
    except (ValueError, TypeError, OverflowError, msgpack.UnpackException) as error:
        raise ConnectionError(f"a frame of {len(body)} bytes is not msgpack: {error}") from error
    if not isinstance(message, dict):
        raise ConnectionError(f"a frame of {len(body)} bytes holds no map")
    return message


def _receive_exactly(connection: socket.socket, size: int) -> bytes | None:
    received = bytearray()
    while len(received) < size:
        if not (part := connection.recv(min(size - len(received), _MAX_READ_BYTES))):
            return None
        received += part
    return bytes(received)
