"""The embeddings of encoders of the BERT family, as the kernels compute them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self, TypeGuard

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from stream_infer.engine import exact
from stream_infer.engine.kernels import EmbeddingsPointers, NormPointers, TokensPointers
from stream_infer.engine.segments import count_positions

TokenIds = NDArray[np.int32]


class FusedEmbeddings(nn.Module):
    """What a token's word, type and place in its text add up to, normalised: the model's own tables.

    Words are kept as float16, which the kernels read: they are much of an 8-bit encoder's memory, and
    lose less to it than the layers behind them lose to their eight bits.
    """

    def __init__(
        self, words: nn.Embedding, positions: nn.Embedding, types: nn.Embedding | None, norm: nn.LayerNorm
    ) -> None:
        super().__init__()
        self.words = words
        self.positions = positions
        self.types = types
        self.norm = norm

    @classmethod
    def of(cls, model: nn.Module) -> Self | None:
        """Return those of a model without heads, its words rounded in place; None where they are others."""
        own = getattr(model, "embeddings", None)
        words, positions, types = (
            getattr(own, f"{name}_embeddings", None) for name in ("word", "position", "token_type")
        )
        norm = getattr(own, "LayerNorm", None)
        # ELECTRA's smaller embeddings are widened behind the norm.
        if hasattr(model, "embeddings_project") or not isinstance(norm, nn.LayerNorm):
            return None
        if not _is_table(words) or not _is_table(positions) or not (types is None or _is_table(types)):
            return None
        if words.weight.abs().max() > torch.finfo(torch.float16).max:
            return None
        words.weight.data = words.weight.data.half()
        return cls(words, positions, types, norm)

    def forward(self, ids: Tensor, positions: Tensor, types: Tensor | None = None) -> Tensor:
        """Return [tokens, size] for tokens [tokens], by the operations of the kernels."""
        embedded = self.words(ids).float()
        if self.types is not None:
            embedded = embedded + self.types(torch.zeros_like(ids) if types is None else types)
        return exact.normalize(self.norm, embedded + self.positions(positions))

    def tokens(
        self, texts: Sequence[TokenIds], types: Sequence[TokenIds] | None, first_position: int
    ) -> LaidOut:
        """Lay texts end to end for the kernels; positions count from `first_position` in each.

        Raises:
            IndexError: the model has no such token, type or position.
        """
        positions = count_positions(np.array([len(text) for text in texts])) + first_position
        return LaidOut(
            _checked(np.concatenate(texts), self.words, "token"),
            _checked(positions, self.positions, "position"),
            None
            if types is None or self.types is None
            else _checked(np.concatenate(types), self.types, "type"),
        )

    def pointers(self) -> EmbeddingsPointers:
        """Return where the kernels find the tables."""
        return EmbeddingsPointers(
            *(self.words.weight.data_ptr(), self.positions.weight.data_ptr()),
            None if self.types is None else self.types.weight.data_ptr(),
            NormPointers(self.norm.weight.data_ptr(), self.norm.bias.data_ptr()),
            self.norm.eps,
        )


class LaidOut:
    """Tokens of texts end to end, each array int32 [tokens]."""

    def __init__(self, ids: TokenIds, positions: TokenIds, types: TokenIds | None) -> None:
        self._arrays = (ids, positions, types)

    def pointers(self) -> TokensPointers:
        """Return where they lie, as long as this object lives."""
        return TokensPointers(*(None if array is None else array.ctypes.data for array in self._arrays))


def _is_table(module: nn.Module | None) -> TypeGuard[nn.Embedding]:
    return type(module) is nn.Embedding and module.weight.dtype is torch.float32


def _checked(indices: NDArray[Any], table: nn.Embedding, what: str) -> TokenIds:
    """Return the indices as the kernels read them, which look at no bounds."""
    if indices.size and not 0 <= indices.min() <= indices.max() < table.num_embeddings:
        raise IndexError(f"a {what} is not one of the model's {table.num_embeddings}")
    return np.ascontiguousarray(indices, np.int32)
