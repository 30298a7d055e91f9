"""`stream-infer serve` that counts nothing, to measure what counting costs: see `overhead`."""

from __future__ import annotations

from prometheus_client import Counter, Histogram

from stream_infer.cli import app
from stream_infer.counting import ModelMetrics, StreamMetrics


def nothing(*_: object, **__: object) -> None:
    """Take the place of whatever counts."""


if __name__ == "__main__":
    for owner, names in (
        (Counter, ("inc",)),
        (Histogram, ("observe",)),
        (ModelMetrics, ("count_batch",)),
        (StreamMetrics, ("count_published", "count_commit")),
    ):
        for name in names:
            setattr(owner, name, nothing)
    app()
