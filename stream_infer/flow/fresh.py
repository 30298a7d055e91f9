"""What models made and nobody was told yet: for the cache that workers share."""

from __future__ import annotations

from stream_infer.schemas import Output


class FreshOutputs:
    """Outputs by work key since they were last taken, up to a bound; beyond it they are counted, not kept."""

    __slots__ = ("_limit", "_outputs", "dropped")

    def __init__(self, limit: int) -> None:
        self.dropped = 0
        """Outputs that were never to be taken."""
        self._limit = limit
        self._outputs: list[tuple[bytes, Output]] = []

    def keep(self, key: bytes, output: Output) -> None:
        """Keep an output until it is taken, if there is room."""
        if len(self._outputs) < self._limit:
            self._outputs.append((key, output))
        else:
            self.dropped += 1

    def take(self) -> list[tuple[bytes, Output]]:
        """Return the outputs since the last call, each once."""
        outputs, self._outputs = self._outputs, []
        return outputs
