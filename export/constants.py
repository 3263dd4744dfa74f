"""Weights of an exported graph as constants, for libraries that prepare weights as they load."""

from __future__ import annotations

from collections.abc import Collection

import onnx
from onnx import TensorProto


def weights_as_constants(graph: bytes, names: Collection[str]) -> bytes:
    """Turn inputs into initialisers without data, which the library is handed beside the graph.

    A graph and its weights need not fit into one message of two gigabytes then, and weights that
    several passes read are in memory once.

    Args:
        graph: serialised, with these inputs.
        names: of the inputs.
    """
    model = onnx.load_from_string(graph)
    kept = [value for value in model.graph.input if value.name not in names]
    for value in model.graph.input:
        if value.name in names:
            kind = value.type.tensor_type
            weight = TensorProto(name=value.name, data_type=kind.elem_type)
            weight.dims.extend(side.dim_value for side in kind.shape.dim)
            weight.data_location = TensorProto.EXTERNAL
            weight.external_data.add(key="location", value="given-by-the-caller")
            model.graph.initializer.append(weight)
    del model.graph.input[:]
    model.graph.input.extend(kept)
    blob: bytes = model.SerializeToString()
    return blob
