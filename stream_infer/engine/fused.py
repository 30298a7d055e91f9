"""Encoders of the BERT family whose 8-bit layers run as one: by the C++ kernels, or in torch.

The models stay transformers' own; only the stack of layers between embeddings and heads is replaced, and
the embeddings where they are the common ones.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterable, Sequence
from functools import cached_property
from types import MappingProxyType
from typing import Any, Final, cast

import torch
from torch import Tensor, nn
from transformers.activations import GELUActivation

from stream_infer.engine import exact
from stream_infer.engine.embeddings import FusedEmbeddings, TokenIds
from stream_infer.engine.kernels import (
    EmbeddingsPointers,
    EncoderPointers,
    HeadsSettings,
    LayerPointers,
    NormPointers,
    load_kernels,
)
from stream_infer.engine.quantization import Int8Linear, fit_as_float, quantize
from stream_infer.engine.segments import PACKABLE, Block, Run, Segment, divide, find_lengths
from stream_infer.engine.smoothing import Widths

_LANES: Final = 16
_LARGEST_HEAD: Final = 128

# Where families keep a layer's parts: query, key, value, attended; inner, outer; the norms; the activation.
_BERT: Final = (
    *("attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense"),
    *("intermediate.dense", "output.dense", "attention.output.LayerNorm", "output.LayerNorm"),
    "intermediate.intermediate_act_fn",
)
_DISTILBERT: Final = (
    *("attention.q_lin", "attention.k_lin", "attention.v_lin", "attention.out_lin"),
    *("ffn.lin1", "ffn.lin2", "sa_layer_norm", "output_layer_norm"),
    "ffn.activation",
)


class FusedLayer(nn.Module):
    """One encoder layer: attention, then two linear layers, each added to its input and normalised."""

    def __init__(self, parts: Sequence[nn.Module], widths: Widths, *, keep_float: bool) -> None:
        super().__init__()
        query, key, value, attended, inner, outer, attention_norm, output_norm = parts[:8]
        # Only what comes from a normalisation is smoothed: other inputs have no such columns.
        self.qkv, self.attended, self.inner, self.outer = (
            Int8Linear.of(
                *cast("Sequence[nn.Linear]", linears),
                widths=known,
                keep_float=keep_float,
                # GELU makes numbers that stand out; elsewhere groups cost more time than they are worth.
                in_groups=linears == (outer,),
            )
            for linears, known in (
                ((query, key, value), widths.get(query)),
                ((attended,), None),
                ((inner,), widths.get(inner)),
                ((outer,), None),
            )
        )
        self.attention_norm = cast("nn.LayerNorm", attention_norm)
        self.output_norm = cast("nn.LayerNorm", output_norm)

    def forward(self, hidden: Tensor, heads: int, blocks: Sequence[Block]) -> Tensor:
        """Return the layer's output for hidden [tokens, size], as the kernels do."""
        context = exact.attend(self.qkv(hidden), heads, blocks)
        hidden = exact.normalize(self.attention_norm, hidden + self.attended(context))
        added = self.outer(exact.gelu(self.inner(hidden)))
        return exact.normalize(self.output_norm, hidden + added)

    def pointers(self) -> LayerPointers:
        """Return where the kernels find the layer's tensors."""
        linears = (self.qkv, self.attended, self.inner, self.outer)
        norms = (self.attention_norm, self.output_norm)
        return LayerPointers(
            *(linear.pointers() for linear in linears),
            *(NormPointers(norm.weight.data_ptr(), norm.bias.data_ptr()) for norm in norms),
        )


class FusedEncoder(nn.Module):
    """Stands in for the layers of a transformers encoder, on packed texts.

    `embeddings` are None where the model's own are to be used.
    """

    def __init__(
        self, layers: Iterable[FusedLayer], heads: int, embeddings: FusedEmbeddings | None = None
    ) -> None:
        super().__init__()
        self.layer = nn.ModuleList(layers)
        self.embeddings = embeddings
        self._heads = heads
        self._kernels = load_kernels()

    def encode(
        self, texts: Sequence[TokenIds], types: Sequence[TokenIds] | None, first_position: int
    ) -> list[Tensor] | None:
        """Return the last hidden states [length, size] of each text, in order, all in one call of a kernel.

        Without kernels, or with the model's own embeddings, return None: `embed` and `run` do it then.

        Raises:
            IndexError: the model has no such token, type or position.
        """
        if self._kernels is None or self.embeddings is None:
            return None
        lengths = [len(text) for text in texts]
        tokens = self.embeddings.tokens(texts, types, first_position)
        hidden = torch.empty(sum(lengths), self.embeddings.words.embedding_dim)
        self._kernels.encode(self._pointers, hidden, lengths, tokens.pointers())
        return list(torch.split(hidden, lengths))

    def embed(self, model: Any, ids: Tensor, positions: Tensor, types: Tensor | None) -> Tensor:
        """Return what the layers are given for tokens [1, tokens] of their model: [tokens, size]."""
        if self.embeddings is not None:
            own = self.embeddings(ids[0], positions[0], None if types is None else types[0])
            return cast("Tensor", own)
        extra = {} if types is None else {"token_type_ids": types}
        embedded: Tensor = model.embeddings(input_ids=ids, position_ids=positions, **extra)
        # ELECTRA's smaller embeddings are widened first.
        project = getattr(model, "embeddings_project", None)
        return (embedded if project is None else project(embedded))[0]

    def run(self, hidden: Tensor, segments: Sequence[Segment]) -> Tensor:
        """Return the last hidden states [tokens, size] for the embedded tokens of packed texts."""
        if self._kernels is None:
            # A few texts at a time: what an operation writes is still in the cache when the next reads it.
            return torch.cat([self._run_torch(hidden, run) for run in divide(segments)])
        hidden = hidden.clone(memory_format=torch.contiguous_format)
        self._kernels.encode(self._pointers, hidden, find_lengths(segments), None)
        return hidden

    def _run_torch(self, hidden: Tensor, run: Run) -> Tensor:
        hidden = hidden[run.start : run.end]
        blocks = run.blocks()
        for layer in self.layer:
            hidden = layer(hidden, self._heads, blocks)
        return hidden

    @cached_property
    def _pointers(self) -> EncoderPointers:
        layers = [layer.pointers() for layer in cast("Iterable[FusedLayer]", self.layer)]
        first = cast("FusedLayer", self.layer[0])
        size = first.attended.in_features // self._heads
        heads = HeadsSettings(
            *(self._heads, size, size**-0.5, exact.query_levels(size)),
            *(exact.VALUE_LEVELS, exact.POWER_LEVELS, exact.WEIGHT_LEVELS),
        )
        array = (LayerPointers * len(layers))(*layers)
        pointer = ctypes.cast(array, ctypes.POINTER(LayerPointers))
        embeddings = EmbeddingsPointers() if self.embeddings is None else self.embeddings.pointers()
        return EncoderPointers(embeddings, pointer, len(layers), heads, first.attention_norm.eps)


def find_fused(model: nn.Module) -> FusedEncoder | None:
    """Return the fused layers of a model without heads, where it has them."""
    return next((child for child in model.children() if isinstance(child, FusedEncoder)), None)


def quantize_encoder(model: nn.Module, widths: Widths = MappingProxyType({})) -> None:
    """Quantise the linear layers of a model in place, and fuse its encoder's where it can be.

    Fused layers are smoothed as far as the `widths` of their inputs are known. On CUDA, and in models of
    other families, layers stay apart.
    """
    for parent in list(model.modules()):
        for name, stack in list(parent.named_children()):
            fused = _fuse(stack, parent, widths)
            if fused is not None:
                setattr(parent, name, fused)
    quantize(model)


def _fuse(stack: nn.Module, parent: nn.Module, widths: Widths) -> FusedEncoder | None:
    layers, config = getattr(stack, "layer", None), getattr(parent, "config", None)
    is_known = getattr(config, "model_type", None) in PACKABLE and not getattr(config, "is_decoder", False)
    if not is_known or not isinstance(layers, nn.ModuleList):
        return None
    heads = int(getattr(config, "num_attention_heads", 0))
    parts = [_parts(layer) for layer in layers]
    if not heads or not all(found is not None and _is_fusible(found, heads) for found in parts):
        return None
    linears = [module for module in stack.modules() if isinstance(module, nn.Linear)]
    keep_float = fit_as_float(linears)
    fused = (FusedLayer(found, widths, keep_float=keep_float) for found in parts if found is not None)
    return FusedEncoder(fused, heads, FusedEmbeddings.of(parent))


def _parts(layer: nn.Module) -> list[nn.Module] | None:
    for names in (_BERT, _DISTILBERT):
        try:
            return [layer.get_submodule(name) for name in names]
        except AttributeError:
            continue
    return None


def _is_fusible(parts: Sequence[nn.Module], heads: int) -> bool:
    *linears, attention_norm, output_norm, activation = parts
    if not all(type(part) is nn.Linear and part.weight.device.type == "cpu" for part in linears):
        return False
    size, inner = (cast("nn.Linear", part).out_features for part in (linears[0], linears[4]))
    return (
        isinstance(attention_norm, nn.LayerNorm)
        and isinstance(output_norm, nn.LayerNorm)
        and isinstance(activation, nn.GELU | GELUActivation)
        and can_fuse_sizes(size, heads, inner)
    )


def can_fuse_sizes(size: int, heads: int, inner: int) -> bool:
    """Say whether the kernels run layers of this hidden size, so many heads and this size between."""
    return size % (heads * _LANES) == 0 and size // heads <= _LARGEST_HEAD and inner % _LANES == 0
