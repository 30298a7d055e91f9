"""The classifier in training: an encoder with low-rank adapters, and heads on its embedding."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Final

import torch
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict
from tokenizers import Tokenizer
from torch import Tensor, nn
from transformers import AutoModel, PreTrainedModel

from stream_infer.errors import ConfigError
from stream_infer.text import prepare_text
from stream_infer.training.data import LABELS, RatedText

_PREFIX: Final = "base_model.model."


@dataclass(frozen=True, slots=True)
class Base:
    """The encoder that adapters are trained on; training changes it in place."""

    encoder: PreTrainedModel
    tokenizer: Tokenizer
    package: str
    version: str


@dataclass(frozen=True, slots=True)
class Example:
    """A tokenised text with its class and mean rating."""

    token_ids: list[int]
    label: int
    rating: float


class Classifier(nn.Module):
    """An encoder, the head that is saved, and a rating head that only helps training."""

    def __init__(self, encoder: nn.Module, dimension: int, dropout: float) -> None:
        super().__init__()
        self.encoder = encoder
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(dimension, len(LABELS))
        self.rating = nn.Linear(dimension, 1)

    def embed(self, token_ids: Tensor, mask: Tensor) -> Tensor:
        """Return the mean of each text's token embeddings: [texts, dimension]."""
        hidden = self.encoder(input_ids=token_ids, attention_mask=mask).last_hidden_state
        weights = mask.unsqueeze(-1).to(hidden.dtype)
        pooled: Tensor = (hidden * weights).sum(1) / weights.sum(1)
        return pooled

    def forward(self, token_ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Return the class logits [texts, classes] and the predicted ratings [texts]."""
        embedding = self.dropout(self.embed(token_ids, mask))
        return self.head(embedding), self.rating(embedding).squeeze(-1)


@torch.inference_mode()
def predict(classifier: Classifier, examples: Sequence[Example], batch_size: int = 64) -> list[int]:
    """Return the most likely class of each example."""
    classifier.eval()
    device = next(classifier.parameters()).device
    predicted = [0] * len(examples)
    by_length = sorted(range(len(examples)), key=lambda index: len(examples[index].token_ids))
    for start in range(0, len(by_length), batch_size):
        chosen = by_length[start : start + batch_size]
        token_ids, mask = pad([examples[index].token_ids for index in chosen])
        embedding = classifier.embed(token_ids.to(device), mask.to(device)).half().float()
        for index, label in zip(chosen, classifier.head(embedding).argmax(-1), strict=True):
            predicted[index] = int(label)
    return predicted


def load_base(package: str) -> Base:
    """Load the encoder and tokenizer that an installed package carries.

    Raises ConfigError when the package is missing or holds no model.
    """
    try:
        distribution = metadata.distribution(package)
    except metadata.PackageNotFoundError as error:
        raise ConfigError(f"training needs the package {package}, which is missing") from error
    found = [file for file in distribution.files or () if file.name == "tokenizer.json"]
    if not found:
        raise ConfigError(f"the package {package} holds no model")
    directory = Path(str(found[0].locate())).parent
    encoder = AutoModel.from_pretrained(
        directory, dtype=torch.float32, use_safetensors=True, trust_remote_code=False, local_files_only=True
    )
    encoder.pooler = None  # the embedding is the tokens' mean: the pooler would be adapted in vain
    tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
    return Base(encoder, tokenizer, package, distribution.version)


def build_classifier(encoder: PreTrainedModel, rank: int, alpha: int, dropout: float) -> Classifier:
    """Put fresh adapters on every linear module of the encoder, and fresh heads behind it.

    The adapters have no dropout of their own: on a CPU it makes a step ten times as long.
    """
    adapters = LoraConfig(r=rank, lora_alpha=alpha, target_modules="all-linear")
    adapted = get_peft_model(encoder, adapters)
    return Classifier(adapted, encoder.config.hidden_size, dropout)


def tokenise(data: Sequence[RatedText], tokenizer: Tokenizer, max_length: int) -> list[Example]:
    """Return the token ids of each prepared text, cut to `max_length`, with what is known of it."""
    tokenizer.no_padding()
    tokenizer.enable_truncation(max_length)
    encodings = tokenizer.encode_batch([prepare_text(row.text) for row in data])
    return [
        Example(encoding.ids, row.label, row.rating) for encoding, row in zip(encodings, data, strict=True)
    ]


def pad(sequences: Sequence[list[int]]) -> tuple[Tensor, Tensor]:
    """Return token ids and attention mask, both [texts, longest]; padding has id 0."""
    tensors = [torch.tensor(sequence) for sequence in sequences]
    token_ids = nn.utils.rnn.pad_sequence(tensors, batch_first=True)
    ones = [torch.ones_like(tensor) for tensor in tensors]
    return token_ids, nn.utils.rnn.pad_sequence(ones, batch_first=True)


def adapter_tensors(classifier: Classifier) -> dict[str, Tensor]:
    """Return the tensors to save: adapters in fp16, head in fp32."""
    state = get_peft_model_state_dict(classifier.encoder)
    tensors = {
        name.removeprefix(_PREFIX).removesuffix(".weight"): weight.half() for name, weight in state.items()
    }
    tensors["head.weight"] = classifier.head.weight
    tensors["head.bias"] = classifier.head.bias
    return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}


def merge_as_saved(classifier: Classifier) -> None:
    """Merge the adapters into the encoder, rounded to fp16 as in the saved file."""
    adapted = classifier.encoder
    if not isinstance(adapted, PeftModel):
        raise TypeError("only a classifier with adapters can be merged")
    with torch.no_grad():
        for name, weight in adapted.named_parameters():
            if ".lora_" in name:
                weight.copy_(weight.half())
    classifier.encoder = adapted.merge_and_unload()
