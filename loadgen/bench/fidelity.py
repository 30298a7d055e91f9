"""Rows of fidelity: the service at 8 bits against itself at full precision, on the real MiniLM."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from typing import Any, Final

import numpy as np

from loadgen.bench import contenders
from loadgen.bench.contender import Contender, ContenderError
from loadgen.bench.embeddings import Vectors, cosines
from loadgen.bench.encoding import OURS, encoder_texts, outputs_of
from loadgen.bench.makers import Maker
from loadgen.bench.rows import Measure, Row
from loadgen.bench.workshop import Workshop
from stream_infer.engine.heads import load_head
from stream_infer.engine.sources import resolve
from stream_infer.engine.specs import ModelKind

CLASSIFIER: Final = "builtin:sentiment"
TARGET: Final = 0.99
COSINE: Final = Measure("least cosine")
LABELS: Final = Measure("labels agree")


def fidelity(asked: Collection[str], workshop: Workshop) -> Iterator[Row]:
    """Yield the rows: the least cosine of two embeddings, and the share of texts with the same label."""
    if "fidelity_cos" in asked:
        yield _compare("fidelity_cos", COSINE, OURS, _least_cosine, workshop)
    if "fidelity_label" in asked:
        classifier = contenders.ours("ours", CLASSIFIER)
        yield _compare("fidelity_label", LABELS, classifier, _agreement, workshop)


MAKERS: Final = (Maker(("fidelity_cos", "fidelity_label"), fidelity),)


def _compare(
    key: str, measure: Measure, ours: Contender, agree: Callable[[Any, Any], float], workshop: Workshop
) -> Row:
    """Return how well both precisions agree; the ratio is to the target, as there is no peer."""
    texts = encoder_texts(workshop.texts)
    pair = [outputs_of(each, texts, workshop) for each in (ours, contenders.at_full_precision(ours))]
    found = agree(*pair)
    note = f"no peer: the ratio is to {TARGET}"
    return Row(key, measure.unit, ours=found, ratio=found / TARGET, rounds=1, note=note)


def _least_cosine(found: Vectors, exact: Vectors) -> float:
    return float(cosines(found, exact).min())


def _agreement(found: Vectors, exact: Vectors) -> float:
    head = load_head(resolve(CLASSIFIER), ModelKind.EMBED)
    if head is None:
        raise ContenderError(f"{CLASSIFIER} has no head")
    labels = [[int(np.argmax(head.scores(vector))) for vector in vectors] for vectors in (found, exact)]
    return float(np.mean([one == other for one, other in zip(*labels, strict=True)]))
