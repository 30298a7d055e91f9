"""Encoders over packed texts: no padding, and attention that never looks at a neighbour.

Texts are laid end to end, those of equal length side by side, as one row [1, total]; everything but
attention works on tokens alone. Attention runs once for each length, over the segment that holds the
texts of this length. So what a text gets does not depend on the texts beside it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import structlog
import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface

from stream_infer.engine.embeddings import TokenIds
from stream_infer.engine.fused import find_fused
from stream_infer.engine.segments import (
    PACKABLE,
    POSITIONS_FROM_PADDING,
    Segment,
    count_positions,
    find_segments,
)

log = structlog.get_logger(__name__)

ATTENTION: Final = "stream_infer_packed"


@dataclass(frozen=True, slots=True)
class Packing:
    """Where the texts of a batch lie in one row.

    `ids` and `positions` are [1, total]; `bounds` gives the first token and the one behind the last
    of each text, in the order in which the texts were given.
    """

    ids: Tensor
    positions: Tensor
    segments: tuple[Segment, ...]
    bounds: tuple[tuple[int, int], ...]
    order: tuple[int, ...]


def pack(texts: Sequence[TokenIds], first_position: int = 0) -> Packing:
    """Lay texts end to end, by length; positions count from `first_position` in each text."""
    lengths = np.fromiter((len(text) for text in texts), np.int64, len(texts))
    order = np.argsort(lengths, kind="stable")
    ends = np.cumsum(lengths[order])
    starts = ends - lengths[order]
    bounds = np.empty((len(texts), 2), np.int64)
    bounds[order] = np.stack([starts, ends], 1)
    positions = count_positions(lengths[order]) + first_position
    ids = np.concatenate([texts[index] for index in order])
    return Packing(
        torch.from_numpy(ids.astype(np.int64)).unsqueeze(0),
        torch.from_numpy(positions).unsqueeze(0),
        tuple(find_segments(lengths[order].tolist())),
        tuple((start, end) for start, end in bounds.tolist()),
        tuple(order.tolist()),
    )


def packed_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    segments: Sequence[Segment] | None = None,
    scaling: float | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Attend within each text of a packed row: query, key, value [1, heads, total, size].

    Without `segments` the whole of each row is one text. Returns [1, total, heads, size].
    """
    del module, attention_mask
    if segments is None:
        attended = functional.scaled_dot_product_attention(query, key, value, scale=scaling)
        return attended.transpose(1, 2), None
    tensors = (query[0], key[0], value[0])
    parts = [_attend(segment, *tensors, scaling) for segment in segments]
    return torch.cat(parts).unsqueeze(0), None


def _attend(segment: Segment, query: Tensor, key: Tensor, value: Tensor, scaling: float | None) -> Tensor:
    texts = (segment.end - segment.start) // segment.length
    shape = (query.shape[0], texts, segment.length, query.shape[2])
    query, key, value = (
        tensor[:, segment.start : segment.end].view(shape).transpose(0, 1) for tensor in (query, key, value)
    )
    attended = functional.scaled_dot_product_attention(query, key, value, scale=scaling)
    return attended.transpose(1, 2).flatten(0, 1)


def _no_mask(*_: Any, **__: Any) -> None:
    return None


AttentionInterface.register(ATTENTION, packed_attention)
AttentionMaskInterface.register(ATTENTION, _no_mask)


class PackedEncoder:
    """A transformers encoder (without heads) that runs on packed texts.

    `is_packed` says whether the model's type can be packed. Texts of other models run one pass for
    each length, which keeps padding and neighbours out just as well, at more passes.
    """

    def __init__(self, model: Any) -> None:
        self.model = model
        self.is_packed = model.config.model_type in PACKABLE and not getattr(
            model.config, "is_decoder", False
        )
        if self.is_packed:
            model.set_attn_implementation(ATTENTION)
        else:
            log.warning("model_not_packed", type=model.config.model_type, effect="one pass for each length")
        counts_from_padding = model.config.model_type in POSITIONS_FROM_PADDING
        self._first_position = model.config.pad_token_id + 1 if counts_from_padding else 0

    @torch.inference_mode()
    def hidden(self, texts: Sequence[TokenIds], types: Sequence[TokenIds] | None = None) -> list[Tensor]:
        """Return the last hidden state of each text, [length, dimension], in order.

        `types` are token type ids, where a model reads pairs.
        """
        fused = find_fused(self.model)
        if fused is not None and (states := fused.encode(texts, types, self._first_position)) is not None:
            return states
        packing = pack(texts, self._first_position)
        extra = {} if types is None else {"token_type_ids": _laid_out(types, packing)}
        run = self._run_packed if self.is_packed else self._run_by_length
        packed = run(packing, {name: tensor.to(self.model.device) for name, tensor in extra.items()})
        return [packed[start:end] for start, end in packing.bounds]

    def _run_packed(self, packing: Packing, extra: dict[str, Tensor]) -> Tensor:
        device = self.model.device
        ids, positions = packing.ids.to(device), packing.positions.to(device)
        if (fused := find_fused(self.model)) is not None:
            embedded = fused.embed(self.model, ids, positions, extra.get("token_type_ids"))
            return fused.run(embedded, packing.segments)
        found = self.model(input_ids=ids, position_ids=positions, **extra, segments=packing.segments)
        states: Tensor = found.last_hidden_state[0]
        return states

    def _run_by_length(self, packing: Packing, extra: dict[str, Tensor]) -> Tensor:
        states = []
        for segment in packing.segments:
            part = {"input_ids": packing.ids.to(self.model.device), **extra}
            rows = {
                name: tensor[0, segment.start : segment.end].view(-1, segment.length)
                for name, tensor in part.items()
            }
            states.append(self.model(**rows).last_hidden_state.flatten(0, 1))
        return torch.cat(states)


def _laid_out(rows: Sequence[TokenIds], packing: Packing) -> Tensor:
    laid = np.concatenate([rows[index] for index in packing.order])
    return torch.from_numpy(laid.astype(np.int64)).unsqueeze(0)
