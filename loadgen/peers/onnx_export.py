"""A model for ONNX Runtime: exported, its graph fused for BERT, and quantised dynamically.

As its documentation has it for transformers: the optimiser before quantisation, signed weights, by
channel (onnxruntime.ai, "Quantize ONNX models" and "Transformers optimizer"). Tried too: weights by
tensor, which was slower and less exact, and torch's newer exporter, of whose graph fewer nodes fuse.
The export leaves transformers changed, so nothing else may run in its process.
"""

from __future__ import annotations

import json
from typing import Any, Final

import torch
from onnx import TensorProto
from onnxruntime.quantization import QuantType, quantize_dynamic
from onnxruntime.transformers.optimizer import optimize_model
from transformers import AutoModel

from loadgen.peers.onnx_int8 import INPUTS, QUANTISED
from loadgen.peers.setup import Setup

_EXPORTED: Final = "exported.onnx"
_FUSED: Final = "fused.onnx"
_OPSET: Final = 17


def prepare(setup: Setup) -> None:
    """Make the quantised graph."""
    _export(setup)
    _fuse(setup)
    _quantise(setup)


class _HiddenStates(torch.nn.Module):
    """A model from ids and mask to its last hidden states, without keywords, which tracing mixes up."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self._model = model

    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> Any:
        """Return [rows, tokens, dimension]."""
        return self._model(input_ids=ids, attention_mask=mask).last_hidden_state


def _export(setup: Setup) -> None:
    model = AutoModel.from_pretrained(setup.model, attn_implementation="eager", dtype=torch.float32).eval()
    model.pooler = None
    example = torch.ones(2, 8, dtype=torch.int64)
    torch.onnx.export(
        _HiddenStates(model),
        (example, example),
        str(setup.made(_EXPORTED)),
        input_names=list(INPUTS),
        output_names=["hidden"],
        dynamic_axes={name: {0: "rows", 1: "tokens"} for name in (*INPUTS, "hidden")},
        opset_version=_OPSET,
        dynamo=False,
    )


def _fuse(setup: Setup) -> None:
    config = json.loads((setup.directory / "config.json").read_text(encoding="utf-8"))
    fused = optimize_model(
        str(setup.made(_EXPORTED)),
        model_type="bert",
        num_heads=config["num_attention_heads"],
        hidden_size=config["hidden_size"],
    )
    fused.save_model_to_file(str(setup.made(_FUSED)))


def _quantise(setup: Setup) -> None:
    quantize_dynamic(
        setup.made(_FUSED),
        setup.made(QUANTISED),
        weight_type=QuantType.QInt8,
        per_channel=True,
        # Types cannot be inferred through the fused nodes.
        extra_options={"DefaultTensorType": TensorProto.FLOAT},
    )
