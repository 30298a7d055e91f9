"""A contender's own process: `python -m loadgen.bench.child FD` obeys orders on the socket FD.

- `call` (function, setup): calls a `module:function` with the setup; answered by `{}`;
- `load` (module, setup): imports an adapter and loads it; answered by `{}`;
- `run` (texts, alone): runs the texts together, or each by itself; answered by the seconds of each
  call and the outputs;
- `memory`: answered by the resident bytes that came since the adapter was imported, and by the most that
  there were at all since it had loaded.

Whatever goes wrong is answered by `{error}`.
"""

from __future__ import annotations

import importlib
import socket
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from loadgen.peers.setup import Run, Setup
from stream_infer.engine.wire import Message, receive_frame, send_frame

_STATUS: Final = Path("/proc/self/status")
_CLEAR: Final = Path("/proc/self/clear_refs")
_RESET_PEAK: Final = "5"


class Child:
    """Obeys orders; holds what it has loaded."""

    def __init__(self) -> None:
        self._run: Run | None = None
        self._before = 0

    def answer(self, order: Message) -> Message:
        """Return the answer to an order."""
        orders: dict[str, Callable[[Message], Message]] = {
            "call": _call,
            "load": self._load,
            "run": self._run_texts,
            "memory": self._memory,
        }
        try:
            return orders[order["order"]](order)
        except Exception as error:  # noqa: BLE001 - what a library raises is for the bench to tell
            return {"error": f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"}

    def _load(self, order: Message) -> Message:
        module = importlib.import_module(order["module"])
        self._before = _resident("VmRSS")
        self._run = module.load(Setup(**order["setup"]))
        _CLEAR.write_text(_RESET_PEAK, encoding="ascii")
        return {}

    def _memory(self, _: Message) -> Message:
        return {"grown": _resident("VmRSS") - self._before, "peak": _resident("VmHWM")}

    def _run_texts(self, order: Message) -> Message:
        if self._run is None:
            raise ValueError("nothing is loaded")
        texts = order["texts"]
        calls = [[text] for text in texts] if order["alone"] else [texts]
        seconds, outputs = _time_calls(self._run, calls)
        return {"seconds": seconds, **encode_outputs(outputs)}


def _time_calls(run: Run, calls: Sequence[Sequence[str]]) -> tuple[list[float], list[Any]]:
    seconds, outputs = [], []
    for texts in calls:
        started = time.perf_counter()
        found = run(texts)
        seconds.append(time.perf_counter() - started)
        outputs += list(found)
    return seconds, outputs


def encode_outputs(outputs: Sequence[Any]) -> Message:
    """Return outputs, either all texts or all vectors of one length, as a message."""
    if all(isinstance(output, str) for output in outputs):
        return {"texts": list(outputs)}
    vectors = np.stack(outputs).astype("<f4")
    return {"vectors": vectors.tobytes(), "width": vectors.shape[1]}


def decode_outputs(message: Message) -> Any:
    """Return the list of texts, or the vectors [texts, width], that `encode_outputs` was given."""
    if "texts" in message:
        return message["texts"]
    return np.frombuffer(message["vectors"], "<f4").reshape(-1, message["width"])


def _call(order: Message) -> Message:
    module, _, name = order["function"].partition(":")
    getattr(importlib.import_module(module), name)(Setup(**order["setup"]))
    return {}


def _resident(field: str) -> int:
    """Return the resident bytes of this process: now (VmRSS), or at most since they were reset (VmHWM)."""
    lines = dict(line.split(":", 1) for line in _STATUS.read_text(encoding="ascii").splitlines())
    return int(lines[field].split()[0]) * 1024


def main() -> None:
    """Obey until the socket closes."""
    child = Child()
    with socket.socket(fileno=int(sys.argv[1])) as connection:
        while (order := receive_frame(connection)) is not None:
            send_frame(connection, child.answer(order))


if __name__ == "__main__":
    main()
