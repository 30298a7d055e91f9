"""A record of quality as the streams role publishes it, and metrics that show one."""

from __future__ import annotations

from collections import Counter

from stream_infer.metrics import Metrics
from stream_infer.schemas import ModelInfo, Record
from stream_infer.service.quality import QualityBoard
from stream_infer.streams.quality import Confusion, Model, quality_record

LABELS = ("negative", "neutral", "positive")
INFO = ModelInfo("sentiment", "builtin:sentiment", "r1", "int8", "cpu", 128, labels=LABELS)
CONFUSION: Confusion = Counter(
    {
        ("positive", "positive"): 6,
        ("positive", "neutral"): 2,
        ("neutral", "neutral"): 1,
        ("joy", "positive"): 1,
    }
)
"""Nothing was given as negative, and people call one text by a label that the model does not have."""


def record_of(
    confusion: Confusion = CONFUSION, *, model: str = INFO.name, revision: str = INFO.revision
) -> Record:
    """Return what is published of these pairs."""
    out = quality_record(Model(model, revision), confusion, 60_000, "quality")
    return Record("quality", 0, 0, 0, out.key, out.value)


def show_quality(metrics: Metrics) -> QualityBoard:
    """Let the metrics show the quality of one model, in which every label has every figure."""
    board = QualityBoard({INFO.name: INFO})
    board.take(record_of(Counter({(right, given): 1 for right in LABELS for given in LABELS})))
    board.show(metrics)
    return board
