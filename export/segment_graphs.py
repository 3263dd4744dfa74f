"""Graphs of the segments of a configuration's blocks, and of its head."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import onnx_ir as ir
import torch
from onnx import TensorProto, helper
from onnxscript import values

from ..errors import ExportError
from .graph import OPSET, Exported, Part, finish, weightless_graphs
from .segment import ACTIVATIONS, HEAD, RESULTS, segment_networks

if TYPE_CHECKING:
    from ..config import StreamConfig

_TOKENS = "tokens"
_EXAMPLE_TOKENS = 24
_EIGHT_BITS = {"fp8": TensorProto.FLOAT8E4M3FN, "int8": TensorProto.INT8}


def segment_graphs(config: StreamConfig, dtype: torch.dtype, products: str) -> Iterator[Exported]:
    """Export all segments: those of a chunk, and those of the context.

    The two differ in their number of tokens, which is fixed in each: libraries for GPUs choose
    kernels by it.

    Args:
        config: of the model and its shots.
        dtype: of weights and activations.
        products: what linear layers multiply: ``exact``, ``fp8`` or ``int8``.

    Raises:
        ExportError: a graph is not what it was meant to be.
    """
    chunk, context = config.shot.chunk_frames, config.cache.context_frames
    parts = {}
    for name, network in segment_networks(config, dtype, products).items():
        examples = {
            given: torch.empty(1, _EXAMPLE_TOKENS, config.model.dim, dtype=dtype, device="meta")
            for given in ACTIVATIONS[name]
        }
        parts[name] = Part(
            network=network, examples=examples, results=RESULTS[name],
            dynamic=dict.fromkeys(examples, (1, _TOKENS)),
        )  # fmt: skip
    skeletons = weightless_graphs(parts, _operators(products))
    for kind, frames in (("chunk", chunk), ("context", context)):
        for name, skeleton in skeletons.items():
            if not frames or (kind, name) == ("context", HEAD):
                continue
            tokens = frames * config.model.tokens_per_frame
            yield Exported(f"{kind}_{name}", finish(_with_tokens(skeleton, tokens), {}))


def _operators(products: str) -> dict[Any, Any]:
    """How a product on 8-bit numbers is written."""
    if products not in _EIGHT_BITS:
        return {}
    op, kind = values.Opset("", OPSET), _EIGHT_BITS[products]

    def product_8bit(rows: Any, weight: Any) -> Any:
        one = op.Constant(value=helper.make_tensor("one", TensorProto.FLOAT, [], [1.0]))
        small = op.QuantizeLinear(rows, one, output_dtype=kind)
        return op.MatMul(op.DequantizeLinear(small, one), op.DequantizeLinear(weight, one))

    return {torch.ops.shotstream_export.product_8bit.default: product_8bit}


def _with_tokens(skeleton: ir.Model, tokens: int) -> ir.Model:
    """A graph of which the number of tokens is fixed; nothing in it may have been fixed before."""
    model = ir.from_proto(ir.to_proto(skeleton))
    graph = model.graph
    made = {value for node in graph for value in node.outputs}
    free = {str(value.shape[1]) for value in graph.inputs
            if value.name in {n for names in ACTIVATIONS.values() for n in names}
            and value.shape is not None}  # fmt: skip
    for value in {*graph.inputs, *graph.outputs, *made}:
        if value.shape is not None:
            sides = [tokens if str(side) in free else side for side in value.shape]
            if any(not isinstance(side, int) for side in sides):
                value.shape = None if value not in graph.outputs else value.shape
                continue
            value.shape = ir.Shape(sides)
    shapes = [node.op_type for node in graph if node.op_type in ("Shape", "Size")]
    if shapes or any(not isinstance(side, int) for value in (*graph.inputs, *graph.outputs)
                     for side in value.shape or ()):  # fmt: skip
        raise ExportError(
            "graph: a segment depends on its number of tokens; wanted one that fits any"
        )
    return model
