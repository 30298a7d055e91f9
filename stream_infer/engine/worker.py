"""The processes behind a replica: a nursery that holds loaded models, and the child that it forks.

Importing torch and loading models takes many seconds, forking takes milliseconds. So the nursery
loads what can be shared, and never computes after that; when the child that serves batches dies or
hangs, the next one is forked. Models on GPUs and own backends are loaded by the child, because a
fork does not carry them.

A nursery's orders come over its control socket (see `Nursery.obey`); it ends when that closes. It is
run as `python -m stream_infer.engine.worker FD`.
"""

from __future__ import annotations

import ctypes
import gc
import os
import signal
import socket
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NoReturn

import structlog

from stream_infer.engine.backend import Backend, load_backend
from stream_infer.engine.serving import describe, serve
from stream_infer.engine.sources import SourceKind
from stream_infer.engine.specs import ModelSpec
from stream_infer.engine.threads import use_threads
from stream_infer.engine.wire import Message, decode_spec, encode_info, receive_frame, send_frame
from stream_infer.errors import ConfigError
from stream_infer.log import configure_logging

_PR_SET_PDEATHSIG: Final = 1
_NURSERY_OOM_SCORE: Final = 500
_CHILD_OOM_SCORE: Final = 900
_UNUSED: Final = ("sklearn", "accelerate")
"""Training's libraries, which transformers would import for seconds where they are installed."""

log = structlog.get_logger(__name__)


class Nursery:
    """Holds the models that a fork carries, and forks children that serve them."""

    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self._specs: list[ModelSpec] = []
        self._loaded: dict[str, Backend] = {}
        self._threads = 1

    def obey(self) -> None:
        """Carry out orders until the control socket closes.

        - `load` (models, threads): answered by `{}`, or by `{error}` when a model cannot be loaded;
        - `fork`, with one descriptor beside it: answered by `{pid}` of a child that serves on it;
        - `reap` (pid): answered by `{status}` once that child has ended, as `os.waitpid` gives it.
        """
        while (order := _receive_order(self._control)) is not None:
            message, descriptor = order
            match message["order"]:
                case "load":
                    reply = self._load(message)
                case "fork":
                    reply = self._fork(descriptor)
                case _:
                    reply = {"status": os.waitpid(message["pid"], 0)[1]}
            send_frame(self._control, reply)

    def _load(self, message: Message) -> Message:
        self._specs = [decode_spec(spec) for spec in message["models"]]
        self._threads = message["threads"]
        try:
            self._loaded = load_all([spec for spec in self._specs if survives_fork(spec)])
        except ConfigError as error:
            return {"error": str(error)}
        # Loading has collected what it left behind.
        gc.freeze()
        return {}

    def _fork(self, descriptor: int) -> Message:
        if (pid := os.fork()) == 0:
            self._control.close()
            run_child(descriptor, self._specs, self._loaded, self._threads)
        os.close(descriptor)
        return {"pid": pid}


def run_child(
    descriptor: int, specs: Sequence[ModelSpec], loaded: Mapping[str, Backend], threads: int
) -> NoReturn:
    """Load what is not loaded yet, say so, and serve batches on `descriptor` until it closes.

    The first frame is `{infos}`, or `{error}` when a model cannot be loaded.
    """
    try:
        die_with_parent()
        volunteer_for_oom_kill(_CHILD_OOM_SCORE)
        use_threads(threads)
        with socket.socket(fileno=descriptor) as connection:
            try:
                backends = {**loaded, **load_all([spec for spec in specs if spec.name not in loaded])}
            except ConfigError as error:
                send_frame(connection, {"error": str(error)})
            else:
                infos = [encode_info(backend.info) for backend in backends.values()]
                send_frame(connection, {"infos": infos})
                serve(connection, backends)
    except BaseException:  # the forked copy of the nursery must end here, whatever happens
        log.exception("replica_failed")
        os._exit(1)
    os._exit(0)


def load_all(specs: Sequence[ModelSpec]) -> dict[str, Backend]:
    """Return the loaded models by name.

    Raises:
        ConfigError: some cannot be loaded; every one is named.
    """
    backends: dict[str, Backend] = {}
    faults = []
    for spec in specs:
        try:
            backends[spec.name] = load_backend(spec)
        except ConfigError as error:
            faults.append(str(error))
        except Exception as error:  # whatever a library raises stops the start with the model's name
            log.exception("model_failed_to_load", model=spec.name, source=spec.source)
            faults.append(f"model {spec.name} ({spec.source}) cannot be loaded: {describe(error)}")
    if faults:
        raise ConfigError("; ".join(faults))
    return backends


def survives_fork(spec: ModelSpec) -> bool:
    """Say whether a model can be loaded before the fork: it is the engine's own and on the CPU."""
    if spec.source.partition(":")[0] == SourceKind.PYTHON:
        return False
    if spec.device != "auto":
        return spec.device == "cpu"
    import torch  # noqa: PLC0415 - own backends need no torch

    return not torch.cuda.is_available()


def die_with_parent() -> None:
    """Have the kernel kill this process when the thread that started it ends."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def volunteer_for_oom_kill(score: int) -> None:
    """Have the kernel choose this process before its parent when memory runs out."""
    try:
        Path("/proc/self/oom_score_adj").write_text(str(score), encoding="ascii")
    except OSError as error:
        log.warning("oom_score_not_set", error=str(error))


def _receive_order(control: socket.socket) -> tuple[Message, int] | None:
    """Return the next order and the descriptor beside it (-1 without one), or None at the end."""
    message = receive_frame(control)
    if message is None:
        return None
    if message["order"] != "fork":
        return message, -1
    _, descriptors, _, _ = socket.recv_fds(control, 1, 1)
    return (message, descriptors[0]) if descriptors else None


def main() -> None:
    """Serve as a nursery on the control socket whose descriptor is the first argument."""
    # Ctrl-C and service managers signal whole groups; the parent drains first and then closes the socket.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    die_with_parent()
    volunteer_for_oom_kill(_NURSERY_OOM_SCORE)
    configure_logging()
    blocked: dict[str, Any] = dict.fromkeys(_UNUSED)
    sys.modules.update(blocked)
    with socket.socket(fileno=int(sys.argv[1])) as control:
        Nursery(control).obey()


if __name__ == "__main__":
    main()
