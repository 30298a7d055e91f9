"""How right this worker's models are by feedback, as the topic `quality` says last: told, not computed.

The streams role publishes it for every model and revision that it saw results of. Here only those count
that this worker runs, and only the labels that they can give: feedback may name any.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from math import isfinite
from typing import Any, Final

import structlog

from stream_infer.bus.values import decode_value, kind_of
from stream_infer.counting import Labels
from stream_infer.errors import InvalidFieldError, RecordError
from stream_infer.metrics import Metrics
from stream_infer.schemas import ModelInfo, Record

MAX_LABELS: Final = 100
"""Labels of one model whose quality is shown, the first in the model's own order."""

_OF_MODELS: Final = {"pairs": "pairs", "accuracy": "accuracy_ratio", "macro_f1": "macro_f1_ratio"}
_OF_LABELS: Final = {"precision": "precision_ratio", "recall": "recall_ratio", "f1": "f1_ratio"}
"""Fields of a record, and of each label in it, and the metrics that show them."""

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Quality:
    """What one record says: figures of the model, and of each label; what is not known is not there."""

    model: str
    revision: str
    figures: Mapping[str, float]
    labels: Mapping[str, Mapping[str, float]]


class QualityBoard:
    """The last published quality of each of these models, of the revision that is run."""

    def __init__(self, infos: Mapping[str, ModelInfo]) -> None:
        self._infos = infos
        self._found: dict[str, Quality] = {}

    def take(self, record: Record) -> None:
        """Take a record of the topic in; one that cannot be read is logged and passed over."""
        if record.value is None:
            return
        try:
            quality = read_quality(record.value)
        except RecordError as error:
            log.warning("quality_skipped", position=record.position, error=str(error))
            return
        info = self._infos.get(quality.model)
        if info is not None and info.revision == quality.revision:
            self._found[quality.model] = quality

    def show(self, metrics: Metrics) -> None:
        """Let the metrics read what is known."""
        for field, name in _OF_MODELS.items():
            metrics.read(f"quality_{name}", partial(self._of_models, field))
        for field, name in _OF_LABELS.items():
            metrics.read(f"quality_{name}", partial(self._of_labels, field))

    def _of_models(self, field: str) -> dict[Labels, float]:
        return {
            (model,): quality.figures[field]
            for model, quality in self._found.items()
            if field in quality.figures
        }

    def _of_labels(self, field: str) -> dict[Labels, float]:
        return {
            (model, label): quality.labels[label][field]
            for model, quality in self._found.items()
            for label in self._infos[model].labels[:MAX_LABELS]
            if field in quality.labels.get(label, {})
        }


def read_quality(value: bytes) -> Quality:
    """Return what the value of a record of the topic says.

    Raises:
        RecordError: it is none.
    """
    fields = decode_value(value, None)
    model, revision = (_require(fields, name, str) for name in ("model", "revision"))
    labels = _require(fields, "labels", dict)
    return Quality(
        model,
        revision,
        _figures(fields, _OF_MODELS),
        {label: _figures(_require(labels, label, dict), _OF_LABELS) for label in labels},
    )


def _require(fields: Mapping[str, Any], name: str, kind: type) -> Any:
    found = fields.get(name)
    if not isinstance(found, kind):
        raise InvalidFieldError(f"{name} is {kind_of(found)}")
    return found


def _figures(fields: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, float]:
    """Return the numbers among these fields; null says that there is none."""
    found = {name: fields[name] for name in names if fields.get(name) is not None}
    for name, figure in found.items():
        if isinstance(figure, bool) or not isinstance(figure, int | float) or not isfinite(figure):
            raise InvalidFieldError(f"{name} is no finite number")
    return {name: float(figure) for name, figure in found.items()}
