"""A graph of many equal layers, put together from the graph of one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import onnx_ir as ir
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto
from onnx_ir.passes import common

from ..errors import ExportError


@dataclass(frozen=True, slots=True)
class Piece:
    """One use of a graph inside a larger one.

    Attributes:
        graph: of the piece, as ``weightless_graph`` gives it.
        name: put in front of the names of what it computes, so that they are unique.
        renamed: what its inputs and results are called in the larger graph; all others keep their
            names.
    """

    graph: ModelProto
    name: str
    renamed: Mapping[str, str]


def stitched(pieces: Sequence[Piece], inputs: Sequence[str], results: Sequence[str]) -> ir.Model:
    """Put pieces together by the names of their inputs and results.

    Args:
        pieces: in the order in which they run.
        inputs: names of the larger graph's inputs that are no weights; weights follow them in the
            order in which they are read. Those that no piece reads are left out.
        results: names of its results.

    Raises:
        ExportError: a piece reads what is neither an input nor computed before.
    """
    nodes: list[NodeProto] = []
    constants: list[TensorProto] = []
    computed: dict[str, ValueInfoProto] = {}
    read: dict[str, ValueInfoProto] = {}
    for piece in pieces:
        graph = piece.graph.graph
        names = {value.name: piece.renamed.get(value.name, value.name)
                 for value in (*graph.input, *graph.output)}  # fmt: skip
        for value in graph.input:
            if names[value.name] not in computed:
                read.setdefault(names[value.name], _named(value, names[value.name]))
        for constant in graph.initializer:
            names[constant.name] = f"{piece.name}/{constant.name}"
            own = TensorProto()
            own.CopyFrom(constant)
            own.name = names[constant.name]
            constants.append(own)
        for node in graph.node:
            copied = NodeProto()
            copied.CopyFrom(node)
            copied.name = f"{piece.name}/{node.name}"
            for field in (copied.input, copied.output):
                field[:] = [name and names.get(name, f"{piece.name}/{name}") for name in field]
            nodes.append(copied)
        computed |= {names[value.name]: _named(value, names[value.name]) for value in graph.output}
    missing = [name for name in results if name not in computed]
    if missing:
        raise ExportError(f"graph: no piece computes {missing[0]!r}")
    behind = [name for name in read if name not in inputs]
    whole = ModelProto()
    whole.CopyFrom(pieces[0].graph)
    whole.graph.CopyFrom(
        GraphProto(
            name="pass", node=nodes, initializer=constants,
            input=[read[name] for name in (*inputs, *behind) if name in read],
            output=[computed[name] for name in results],
        )
    )  # fmt: skip
    model = ir.from_proto(whole)
    # What every layer computes from the same inputs, such as cosines by themselves, is one node.
    for tidy in (
        common.RemoveUnusedNodesPass(), common.DeduplicateInitializersPass(),
        common.CommonSubexpressionEliminationPass(),
    ):  # fmt: skip
        tidy(model)
    return model


def _named(value: ValueInfoProto, name: str) -> ValueInfoProto:
    own = ValueInfoProto()
    own.CopyFrom(value)
    own.name = name
    return own
