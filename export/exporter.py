"""Exports a configuration's graphs into a folder, with their manifest."""

from __future__ import annotations

import hashlib
import importlib.metadata
import re
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import onnx
import onnx_ir as ir
import torch
from torch import Tensor

import shotstream_rt

from ..kernels.sets.kernel_set import TORCH_OPS
from ..model.bound_student import BoundStudent
from ..outputs import atomic_folder
from .block_part import origin_of
from .codec_graphs import codec_graphs
from .engine_tensors import digest_of, pass_tensors, segment_tensors
from .graph import OPSET, Exported
from .manifest import (
    CODEC_FILE,
    MANIFEST_FILE,
    BoundTensor,
    EngineManifest,
    ExportedPass,
    Port,
    fit_of,
)
from .pass_graphs import pass_graphs
from .product import with_products
from .segment import ACTIVATIONS, HEAD, RESULTS, ROWS
from .segment_graphs import segment_graphs

if TYPE_CHECKING:
    from ..config import StreamConfig
    from ..model.nano.codec import NanoCodecNet

OWN_FILES = r"((engines|codec)\.json|[a-z0-9_]+\.(onnx|plan))"
"""Names of the files that an export and what is built of it have."""

_ROLES = {
    "x": "latents", "x0": "latents", "next_x": "latents", "noise": "noise", "text": "text",
    "k": "cache", "v": "cache", "front_k": "cache", "front_v": "cache", "back_k": "cache",
    "back_v": "cache", "caption_k": "captions", "caption_v": "captions", "rotation": "rotation",
    "own_rotation": "rotation", "front_rotation": "rotation", "back_rotation": "rotation",
}  # fmt: skip
_ROLES |= {name: "tokens" for names in (*ACTIVATIONS.values(), *RESULTS.values()) for name in names
           if name != "x"}  # fmt: skip
_ROLES |= {"latents": "latents", "pixels": "pixels", "before": "state", "after": "state"}
_MODULATION = {row for rows in ROWS.values() for row in rows}
_NAMES = {torch.float32: "float", torch.bfloat16: "bfloat16"}
_PACKAGES = ("torch", "onnx", "onnxscript", "onnx-ir")


@dataclass(frozen=True, slots=True, kw_only=True)
class PassReport:
    """How a graph was exported.

    Attributes:
        name: of the pass or segment.
        file: that was written.
        nbytes: its size.
        nodes: operators in it.
        seconds: that it took.
    """

    name: str
    file: str
    nbytes: int
    nodes: int
    seconds: float


def export_graphs(
    config: StreamConfig,
    dtype: torch.dtype,
    folder: Path,
    *,
    form: str = "passes",
    products: str = "exact",
    weights: Mapping[str, Tensor] | None = None,
    codec: NanoCodecNet | None = None,
    on_pass: Callable[[PassReport], None] = lambda report: None,
) -> EngineManifest:
    """Export all graphs of one form; the folder is whole or not there.

    Shapes follow from the configuration; no file holds weights.

    Args:
        config: of the model, its shots and its schedule.
        dtype: of weights, activations and caches.
        folder: where files go; replaced if it holds an earlier export alone.
        form: ``passes``, ``segments`` or ``codec``.
        products: of segments: ``exact``, ``fp8`` or ``int8``.
        weights: the engines are for these alone, whose digests the manifest has then; default: for
            any of the same shapes. Of form ``codec`` the codec's.
        codec: whose decoder is exported in float32: beside passes, or alone.
        on_pass: told about each graph as its file is written.

    Raises:
        ConfigError: the configuration prunes history, which no exported pass does.
        WeightsError: one of the weights is missing.
        OutputError: the folder cannot be written.
        ExportError: a graph is not what it was meant to be.
    """
    with atomic_folder(folder, own=OWN_FILES) as part:
        if form != "codec":
            graphs = (
                pass_graphs(config, dtype) if form == "passes"
                else segment_graphs(config, dtype, products)
            )  # fmt: skip
            manifest = _written(part, graphs, config, dtype, form, products, weights, on_pass)
            manifest.write(part)
        if codec is not None:
            own = weights if form == "codec" or weights is None else codec.state_dict()
            decoder = _written(
                part, codec_graphs(config, codec), config, torch.float32, "codec", "exact", own,
                on_pass,
            )  # fmt: skip
            decoder.write(part, MANIFEST_FILE if form == "codec" else CODEC_FILE)
            manifest = decoder if form == "codec" else manifest
    return manifest


def _written(
    folder: Path, graphs: Iterator[Exported], config: StreamConfig, dtype: torch.dtype, form: str,
    products: str, weights: Mapping[str, Tensor] | None, on_pass: Callable[[PassReport], None],
) -> EngineManifest:  # fmt: skip
    """Write graphs; return their manifest.

    Args:
        folder: for their files.
        graphs: of one form.
        config: of the model.
        dtype: of the graphs.
        form: of them.
        products: of segments.
        weights: see ``export_graphs``.
        on_pass: likewise.
    """
    entries, begun_s = [], time.monotonic()
    for made in graphs:
        file = f"{made.name}.onnx"
        (folder / file).write_bytes(made.blob)
        graph = ir.from_proto(onnx.load_from_string(made.blob)).graph
        entries.append(
            ExportedPass(
                name=made.name, file=file, sha256=hashlib.sha256(made.blob).hexdigest(),
                time=made.time, sigmas=made.sigmas,
                inputs=tuple(_port(value, form) for value in graph.inputs),
                outputs=tuple(_port(value, form) for value in graph.outputs),
            )
        )  # fmt: skip
        on_pass(
            PassReport(
                name=made.name, file=file, nbytes=len(made.blob), nodes=len(graph),
                seconds=time.monotonic() - begun_s,
            )
        )  # fmt: skip
        begun_s = time.monotonic()
    return EngineManifest(
        version=shotstream_rt.__version__,
        form=form,
        products=products,
        fits=fit_of(config, form),
        dtype=str(dtype).removeprefix("torch."),
        opset=OPSET,
        exporter={name: importlib.metadata.version(name) for name in _PACKAGES},
        passes=tuple(entries),
        tensors=_tensors(tuple(entries), config, dtype, form, products, weights),
    )


def _tensors(
    entries: tuple[ExportedPass, ...], config: StreamConfig, dtype: torch.dtype, form: str,
    products: str, weights: Mapping[str, Tensor] | None,
) -> tuple[BoundTensor, ...]:  # fmt: skip
    """Everything that engines are bound to, and all else of the checkpoint that decides numbers.

    Args:
        entries: of the manifest.
        config: of the model.
        dtype: of weights.
        form: of the graphs.
        products: of segments.
        weights: see ``export_graphs``.
    """
    found: dict[tuple[str, int | None], Tensor] = {}
    if weights is not None and form == "codec":
        found = {(name, None): tensor.to(dtype) for name, tensor in weights.items()}
    elif weights is not None:
        student = BoundStudent.from_state(
            weights, config.model, with_products(TORCH_OPS, products),
            source="weights to export", dtype=dtype,
        )  # fmt: skip
        if form == "segments":
            found = segment_tensors(student)
        else:
            found = {(name, None): tensor for name, tensor in pass_tensors(student).items()}
    bound = []
    for port, layer in _bound_ports(entries, config, form):
        sources, operation = _origin(port.name, layer, form)
        bound.append(
            BoundTensor(
                name=port.name, layer=layer, sources=sources, operation=operation,
                shape=tuple(int(side) for side in port.shape), dtype=port.dtype,
                sha256=None if weights is None else digest_of(found[port.name, layer]),
            )
        )  # fmt: skip
    if weights is None or form == "codec":
        return tuple(bound)
    beside = sorted(weights.keys() - {source for one in bound for source in one.sources})
    for name in beside:
        tensor = weights[name].to(dtype)
        bound.append(
            BoundTensor(
                name=name, layer=None, sources=(name,), operation="cast",
                shape=tuple(tensor.shape), dtype=_NAMES[dtype], sha256=digest_of(tensor),
            )
        )  # fmt: skip
    return tuple(bound)


def _bound_ports(
    entries: tuple[ExportedPass, ...], config: StreamConfig, form: str
) -> Iterator[tuple[Port, int | None]]:
    """Every weight that inputs are bound to, once, with its layer where its name leaves that open.

    Args:
        entries: of the manifest.
        config: of the model.
        form: of the graphs.
    """
    if form != "segments":
        for port in {port.name: port for entry in entries for port in entry.weights}.values():
            yield port, None
        return
    for layer in (*range(config.model.num_layers), None):
        for entry in entries:
            kind, _, name = entry.name.partition("_")
            if (name == HEAD) == (layer is None) and kind == "chunk":
                for port in entry.weights:
                    yield port, layer


def _origin(name: str, layer: int | None, form: str) -> tuple[tuple[str, ...], str]:
    """What a bound tensor is made of, and how.

    Args:
        name: of it.
        layer: of a segment's block.
        form: of the graphs.
    """
    if form == "segments":
        return origin_of(name, layer)
    if form == "passes":
        if match := re.fullmatch(r"blocks\.(\d+)\.(.*)", name):
            return origin_of(match[2], int(match[1]))
        if name.startswith("head."):
            return origin_of(name.removeprefix("head."), None)
    return (name,), "cast"


def _port(value: ir.Value, form: str) -> Port:
    assert value.name is not None and value.dtype is not None and value.shape is not None
    stem = value.name.rpartition("_")[0] if value.name[-1].isdigit() else value.name
    role = _ROLES.get(value.name) or _ROLES.get(stem, "weight")
    if value.name.rpartition(".")[2] in _MODULATION:
        role = "modulation"
    if form == "segments" and value.name == "x":
        role = "tokens"
    shape = tuple(side if isinstance(side, int) else str(side) for side in value.shape)
    return Port(name=value.name, role=role, dtype=value.dtype.name.lower(), shape=shape)
