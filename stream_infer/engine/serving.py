"""A replica's child: batches in, outputs or errors out, one at a time."""

from __future__ import annotations

import gc
import socket
import sys
from collections.abc import Mapping, Sequence

import numpy as np
import structlog

from stream_infer.engine.backend import Backend
from stream_infer.engine.threads import use_threads
from stream_infer.engine.wire import Message, decode_batch, encode_outputs, receive_frame, send_frame
from stream_infer.errors import ModelFailedError, OutOfMemoryError
from stream_infer.schemas import Output, Tokens

_MESSAGE_LIMIT = 300
_VECTOR_TYPES = (np.dtype(np.float16), np.dtype(np.float32))
_OUT_OF_MEMORY_SIGNS = ("can't allocate memory", "out of memory", "bad_alloc", "bad allocation")

log = structlog.get_logger(__name__)


def serve(connection: socket.socket, backends: Mapping[str, Backend]) -> None:
    """Answer batches by their numbers until the connection closes; an exception in a model is an answer."""
    while (message := receive_frame(connection)) is not None:
        send_frame(connection, {"number": message["number"], **answer(message, backends)})


def answer(message: Message, backends: Mapping[str, Backend]) -> Message:
    """Return a batch's outputs, or the `reason` and `error` of its failure."""
    model, batch, options = decode_batch(message)
    use_threads(message["threads"])
    try:
        return encode_outputs(_run(backends[model], batch, options))
    except Exception as error:  # noqa: BLE001 - the edge of the engine: failures are the caller's to judge
        reason = OutOfMemoryError.reason if is_out_of_memory(error) else ModelFailedError.reason
        description, kind = describe(error), type(error).__name__
    # Not its message: a model of somebody's own may quote the text that it decoded.
    log.warning("batch_failed", model=model, size=len(batch), reason=reason, error=kind)
    if reason == OutOfMemoryError.reason:
        _release_memory()
    return {"reason": reason, "error": description}


def _run(backend: Backend, batch: Sequence[Tokens], options: Sequence[str]) -> list[Output]:
    outputs = backend.run(batch, options)
    if len(outputs) != len(batch):
        raise ValueError(f"{len(outputs)} outputs for {len(batch)} items")
    for number, output in enumerate(outputs):
        _check(number, output)
    return outputs


def _check(number: int, output: Output) -> None:
    """Refuse what could not be told apart from a good output later, or could not be sent at all."""
    if output.vector is not None:
        if output.vector.dtype not in _VECTOR_TYPES or output.vector.ndim != 1:
            raise TypeError(f"output {number} is no vector of float16 or float32")
        if not np.isfinite(output.vector).all():
            raise ValueError(f"output {number} holds NaN or infinity")
    if output.text is not None:
        output.text.encode()


def is_out_of_memory(error: Exception) -> bool:
    """Say whether memory ran out: Python's, the C++ library's, or a device's as torch reports them."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    message = str(error).lower()
    return isinstance(error, RuntimeError) and any(sign in message for sign in _OUT_OF_MEMORY_SIGNS)


def describe(error: Exception) -> str:
    """Return an error's type and message on one short line; models see token ids, so it holds no text."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:_MESSAGE_LIMIT]


def _release_memory() -> None:
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.empty_cache()
