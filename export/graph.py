"""From a pass in torch to an ONNX graph without weights, equal in every byte wherever it is made.

Weights are graph inputs under the names of their parameters. What would make a graph silently
wrong is refused: example inputs that share memory (torch merges them into one input), a parameter
that a rewrite has hidden in a constant, an input that nothing reads.
"""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import onnx_ir as ir
import onnxscript.optimizer
import torch
from onnx_ir.passes.common import RemoveUnusedNodesPass
from torch import Tensor, nn

from ..errors import ExportError

OPSET = 23
"""The first with Attention, RMSNormalization and RotaryEmbedding as operators of their own."""

LARGEST_CONSTANT = 64
"""Elements of the largest constant that a graph's own arithmetic has. A larger one is a weight."""


class Exported(NamedTuple):
    """One graph.

    Attributes:
        name: of the pass or segment.
        blob: serialised.
        time: timestep that is folded in, or ``None``.
        sigmas: noise levels that are folded in.
    """

    name: str
    blob: bytes
    time: float | None = None
    sigmas: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Part:
    """What becomes one graph.

    Attributes:
        network: may be on the meta device; no parameter is another part's as well.
        examples: its arguments, on the same device.
        dynamic: arguments of which one axis has any length: the axis, and the length's name.
        results: names of its results, in order.
        prefix: left out at the beginning of parameters' names.
    """

    network: nn.Module
    examples: Mapping[str, Tensor]
    dynamic: Mapping[str, tuple[int, str]]
    results: Sequence[str]
    prefix: str = ""


class _Together(nn.Module):
    """Parts side by side, as one network.

    Args:
        parts: by name.
    """

    def __init__(self, parts: Mapping[str, Part]) -> None:
        super().__init__()
        self.parts = nn.ModuleDict({name: part.network for name, part in parts.items()})

    def forward(self, given: Mapping[str, Mapping[str, Tensor]]) -> list[Tensor]:
        """Run every part on its own arguments; results one after the other."""
        results: list[Tensor] = []
        for name, network in self.parts.items():
            made = network(**given[name])
            results += made if isinstance(made, tuple) else (made,)
        return results


def weightless_graphs(
    parts: Mapping[str, Part],
    operators: Mapping[Callable[..., Any], Callable[..., Any]] | None = None,
) -> dict[str, ir.Model]:
    """Export networks, optimised; parameters become inputs behind a graph's own.

    Torch traces all of them at once: its exporter takes seconds before it looks at a network.

    Args:
        parts: by name.
        operators: how operators that torch does not know are written in standard ones.

    Raises:
        ExportError: an input would be merged or is not used, or a parameter is not where it should
            be.
    """
    _check_apart(parts)
    labels = {label for part in parts.values() for _, label in part.dynamic.values()}
    lengths = {label: torch.export.Dim(label, min=0, max=1 << 24) for label in sorted(labels)}
    shapes = {
        name: {
            key: {part.dynamic[key][0]: lengths[part.dynamic[key][1]]} if key in part.dynamic
            else None
            for key in part.examples
        }
        for name, part in parts.items()
    }  # fmt: skip
    network = _Together(parts).eval()
    with _quietly(), torch.no_grad():
        program = torch.onnx.export(
            network,
            kwargs={"given": {name: dict(part.examples) for name, part in parts.items()}},
            dynamo=True, opset_version=OPSET, optimize=False, verbose=False,
            dynamic_shapes={"given": shapes}, custom_translation_table=dict(operators or {}),
        )  # fmt: skip
    assert program is not None
    given = [(name, key) for name, part in parts.items() for key in part.examples]
    results = [(name, key) for name, part in parts.items() for key in part.results]
    model = program.model
    for kind, found, wanted in (("inputs", model.graph.inputs, given),
                                ("results", model.graph.outputs, results)):  # fmt: skip
        if len(found) != len(wanted):
            raise ExportError(f"graph: got {len(found)} {kind}, wanted {len(wanted)}")
        for value, (name, key) in zip(found, wanted, strict=True):
            value.name = f"{name}{_BETWEEN}{key}"
    held = dict(network.named_parameters()) | dict(network.named_buffers())
    model = weights_to_inputs(model, held)
    with _quietly():
        model = onnxscript.optimizer.optimize(model)
    strip(model)
    whole = ir.to_proto(model)
    return {name: _split(ir.from_proto(whole), name, part) for name, part in parts.items()}


_BETWEEN = "::"
"""Between a part's name and that of its input or result, while parts are together."""


def _split(model: ir.Model, name: str, part: Part) -> ir.Model:
    """Keep one part of a graph of many.

    Args:
        model: of all parts; changed in place.
        name: of the part.
        part: itself.

    Raises:
        ExportError: it has not all of its results.
    """
    graph, own, weights = model.graph, f"{name}{_BETWEEN}", f"parts.{name}."
    for value in list(graph.outputs):
        if not str(value.name).startswith(own):
            graph.outputs.remove(value)
    RemoveUnusedNodesPass()(model)
    read = set(graph.inputs) - {v for v in graph.inputs if v.name in unread_inputs(model)}
    for value in list(graph.inputs):
        mine = str(value.name).startswith((own, weights))
        if not mine and value in read:
            raise ExportError(f"graph: part {name} reads {value.name}, which is another part's")
        if not mine or (value not in read and str(value.name).startswith(weights)):
            graph.inputs.remove(value)
    for value in (*graph.inputs, *graph.outputs):
        plain = str(value.name).removeprefix(own).removeprefix(weights)
        value.name = plain.removeprefix(part.prefix)
    if [value.name for value in graph.outputs] != list(part.results):
        raise ExportError(f"graph: part {name} has lost a result")
    _name_lengths(model, part.dynamic)
    return model


def weights_to_inputs(model: ir.Model, parameters: Mapping[str, Any]) -> ir.Model:
    """Turn the initialisers that are parameters into graph inputs.

    Args:
        model: as torch exported it, changed in place.
        parameters: of the network, by name, and its buffers.

    Raises:
        ExportError: an initialiser is no parameter and yet too large to be a graph's own number.
    """
    graph = model.graph
    constants = {n.outputs[0].name: n.attributes["value"].as_tensor().size for n in graph
                 if n.op_type == "Constant" and "value" in n.attributes}  # fmt: skip
    for name, value in graph.initializers.items():
        if name not in parameters:
            constants[name] = 0 if value.const_value is None else value.const_value.size
    hidden = [name for name, size in constants.items() if size > LARGEST_CONSTANT]
    if hidden:
        raise ExportError(
            f"graph: {hidden[0]!r} holds {constants[hidden[0]]} numbers and is no parameter: "
            "weights were folded into it; export without optimising"
        )
    for name in parameters:
        if name in graph.initializers:
            value = graph.initializers.pop(name)
            value.const_value = None
            graph.inputs.append(value)
    return model


def finish(
    skeleton: ir.Model,
    constants: Mapping[str, np.ndarray[Any, Any]],
    dropped: Collection[str] = (),
    idle: Callable[[str], bool] = lambda name: False,
) -> bytes:
    """Turn some inputs into constants, drop what is not needed then, and serialise.

    Args:
        skeleton: from ``weightless_graphs`` or ``stitched``; left as it is.
        constants: value of each input that becomes one.
        dropped: results that are left out, and all that only they need.
        idle: whether an input may be left out because nothing reads it any more.

    Raises:
        ExportError: nothing reads an input that may not be left out.
    """
    model = ir.from_proto(ir.to_proto(skeleton))
    graph = model.graph
    for value in [value for value in graph.outputs if value.name in dropped]:
        graph.outputs.remove(value)
    for value in [value for value in graph.inputs if value.name in constants]:
        assert value.name is not None
        graph.inputs.remove(value)
        value.const_value = ir.tensor(constants[value.name], name=value.name)
        graph.initializers[value.name] = value
    RemoveUnusedNodesPass()(model)
    for name in unread_inputs(model):
        if idle(name):
            model.graph.inputs.remove(next(v for v in model.graph.inputs if v.name == name))
    check_inputs_used(model)
    strip(model)
    proto = ir.to_proto(model)
    blob: bytes = proto.SerializeToString(deterministic=True)
    return blob


def check_inputs_used(model: ir.Model) -> None:
    """Require that every input is read.

    Raises:
        ExportError: one is not.
    """
    unread = unread_inputs(model)
    if unread:
        raise ExportError(
            f"graph: nothing reads input(s) {', '.join(unread)}: two example inputs were taken for "
            "one, or the pass does not need them"
        )


def unread_inputs(model: ir.Model) -> list[str]:
    """Return the names of inputs that no operator reads."""
    read = {value.name for node in model.graph for value in node.inputs if value is not None}
    read |= {value.name for value in model.graph.outputs}
    return [str(value.name) for value in model.graph.inputs if value.name not in read]


def _check_apart(parts: Mapping[str, Part]) -> None:
    """Require that no tensor is given twice: torch would make one input of two."""
    seen: dict[int, str] = {}
    for part in parts.values():
        for name, tensor in part.examples.items():
            if id(tensor) in seen:
                raise ExportError(
                    f"graph: example inputs {seen[id(tensor)]} and {name} are one tensor, which "
                    "would make them one input; wanted fresh tensors"
                )
            seen[id(tensor)] = name


def _name_lengths(model: ir.Model, dynamic: Mapping[str, tuple[int, str]]) -> None:
    """Call the lengths of the arena's pieces by their names instead of torch's symbols."""
    names: dict[str, str] = {}
    for value in model.graph.inputs:
        known = dynamic.get(str(value.name))
        if known is not None and value.shape is not None:
            axis, label = known
            names[str(value.shape[axis])] = label
    for value in model.graph.inputs:
        if value.shape is not None:
            dims = [names.get(str(dim), dim) if not isinstance(dim, int) else dim
                    for dim in value.shape]  # fmt: skip
            value.shape = ir.Shape(dims)


def strip(model: ir.Model) -> None:
    """Drop what torch notes about where a node comes from: paths and lines of this machine."""
    model.metadata_props.clear()
    model.graph.metadata_props.clear()
    for value in [*model.graph.inputs, *model.graph.initializers.values()]:
        value.metadata_props.clear()
    for node in model.graph:
        node.metadata_props.clear()
        node.doc_string = None
        for value in node.outputs:
            value.metadata_props.clear()


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Keep the exporter's own remarks to itself: they are about its operators, not about ours."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnx_ir", "onnxscript")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
