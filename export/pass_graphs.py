"""Graphs of every whole pass of a configuration."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir
import torch
from torch import Tensor, nn

from ..errors import ConfigError
from ..plan.schedule import Schedule
from .block_part import meta_student
from .graph import Exported, Part, finish, weightless_graphs
from .stitching import Piece, stitched
from .whole_pass import (
    EXPORT_OPS,
    CaptionLayer,
    CaptionOpening,
    ChunkLayer,
    Closing,
    ContextLayer,
    Opening,
)

if TYPE_CHECKING:
    from onnx import ModelProto

    from ..config import StreamConfig
    from ..model.blocks import BoundBlock
    from ..model.student import Student


@dataclass(frozen=True, slots=True, kw_only=True)
class _Pass:
    """What one file is made of.

    Attributes:
        name: of the pass.
        kind: ``captions``, ``context`` or ``chunk``; passes of a kind are exported once.
        time: of the rows of modulation that it is bound to.
        sigmas: that are folded in.
        dropped: results of the kind that this pass does not give.
    """

    name: str
    kind: str
    time: float | None = None
    sigmas: tuple[float, ...] = ()
    dropped: tuple[str, ...] = ()


def pass_graphs(config: StreamConfig, dtype: torch.dtype) -> Iterator[Exported]:
    """Export all whole passes of a configuration.

    Args:
        config: of the model, its shots and its schedule.
        dtype: of weights, activations and caches.

    Raises:
        ConfigError: the configuration prunes history, which no exported pass does.
        ExportError: a graph is not what it was meant to be.
    """
    if config.history is not None:
        raise ConfigError(
            "export: passes that prune history cannot be exported; use profile exact, or export "
            "segments"
        )
    parts = {f"{kind}_{name}": part for kind in _kinds(config)
             for name, part in _parts(kind, config, dtype).items()}  # fmt: skip
    graphs = {name: ir.to_proto(graph) for name, graph in weightless_graphs(parts).items()}
    skeletons = {kind: _skeleton(kind, config, graphs, dtype) for kind in _kinds(config)}
    for own in _passes(config):
        blob = finish(
            skeletons[own.kind], _constants(own), own.dropped,
            partial(_is_idle, own, config.model.num_layers - 1),
        )  # fmt: skip
        yield Exported(own.name, blob, own.time, own.sigmas)


def _passes(config: StreamConfig) -> Iterator[_Pass]:
    """Everything a film runs, in order."""
    schedule = Schedule.from_config(config.schedule)
    yield _Pass(name="captions", kind="captions")
    if config.cache.context_frames:
        yield _Pass(name="context", kind="context", time=0.0)
    last = len(schedule.sigmas) - 1
    for step, moment in enumerate(schedule.timesteps):
        yield _Pass(
            name=f"denoise_{step}", kind="chunk", time=moment,
            sigmas=schedule.sigmas[step : step + 2], dropped=("next_x",) if step == last else (),
        )  # fmt: skip
    yield _Pass(
        name="commit", kind="chunk", time=schedule.commit_timestep, dropped=("x0", "next_x")
    )


def _is_idle(own: _Pass, last_layer: int, name: str) -> bool:
    """Whether a pass has no use for an input: it serves a result that is left out alone."""
    step_end = ("noise", "next_sigma")
    if own.dropped == ("next_x",):
        return name in step_end
    ends = tuple(f"{place}_{part}_{last_layer}" for place in ("front", "back", "caption")
                 for part in ("k", "v"))  # fmt: skip
    if last_layer == 0:  # no layer attends, so nothing is rotated to be read
        ends += ("own_rotation", "front_rotation", "back_rotation")
        ends += ("rotation",) if own.kind == "chunk" else ()
    weights = ("head.", f"blocks.{last_layer}.")
    ends_in_keys = bool(own.dropped) or own.kind == "context"
    return ends_in_keys and (name in (*step_end, *ends, "sigma") or name.startswith(weights))


def _kinds(config: StreamConfig) -> list[str]:
    """Kinds of passes that a film has."""
    return ["captions", *(["context"] if config.cache.context_frames else []), "chunk"]


def _parts(kind: str, config: StreamConfig, dtype: torch.dtype) -> dict[str, Part]:
    """What a kind of pass is made of, with its time as an input.

    Args:
        kind: of pass.
        config: shapes.
        dtype: of weights and activations.
    """
    examples, dynamic = _examples(kind, config, dtype)
    dim, text_len = config.model.dim, config.model.text_len

    def fresh(*shape: int) -> Tensor:
        return torch.empty(shape, dtype=dtype, device="meta")

    def student() -> Student:
        return meta_student(config, dtype, layers=1)  # parts share no parameters

    def part(network: nn.Module, names: Sequence[str], results: Sequence[str], prefix: str,
             **between: Tensor) -> Part:  # fmt: skip
        """Describe a part.

        Args:
            network: of the part.
            names: which of the pass's inputs it reads.
            results: names of its results.
            prefix: in front of its parameters' names.
            between: examples of what it reads from parts before.
        """
        own = {**between, **{name: torch.empty_like(examples[name]) for name in names}}
        lengths = {name: axis for name, axis in dynamic.items() if name in names}
        return Part(network=network, examples=own, dynamic=lengths, results=results, prefix=prefix)

    def block() -> BoundBlock:
        return student().layers[0].bind(EXPORT_OPS)

    if kind == "captions":
        return {
            "opening": part(CaptionOpening(student()), ["text"], ["embedded"], "student."),
            "layer": part(CaptionLayer(block()), [], ["k", "v"], "",
                          embedded=fresh(1, text_len, dim)),
        }  # fmt: skip
    context = config.cache.context_frames if kind == "context" else 0
    frames = context or config.shot.chunk_frames
    tokens = frames * config.model.tokens_per_frame
    layer: nn.Module = (
        ContextLayer(block(), context)
        if context
        else ChunkLayer(block(), rotate_on_read=config.cache.key_rotation == "on_read")
    )
    parts = {
        "opening": part(Opening(student(), context), ["x"], ["tokens"], "student."),
        "layer": part(layer, [name for name in examples if name not in _NOT_OF_LAYERS],
                      ["y", "k", "v"], "", x=fresh(1, tokens, dim)),
    }  # fmt: skip
    if kind == "chunk":
        parts["closing"] = part(
            Closing(student(), block()), ["noise", "sigma", "next_sigma"],
            ["x0", "next_x"], "", x=fresh(1, tokens, dim), latents=torch.empty_like(examples["x"]),
        )  # fmt: skip
    return parts


def _skeleton(
    kind: str, config: StreamConfig, graphs: Mapping[str, ModelProto], dtype: torch.dtype
) -> ir.Model:
    """Put a kind of pass together: its opening, the layer repeated, and its closing.

    Args:
        kind: of pass.
        config: of the model.
        graphs: of all parts.
        dtype: of weights and activations.
    """
    layers, layer = range(config.model.num_layers), graphs[f"{kind}_layer"]
    pieces = [Piece(graphs[f"{kind}_opening"], "opening", {"tokens": "/x_0"})]
    pieces += [Piece(layer, f"layer_{index}", _of_layer(layer, index)) for index in layers]
    results = [f"{name}_{index}" for name in ("k", "v") for index in layers]
    if kind == "chunk":
        last = {"x": f"/x_{len(layers)}", "latents": "x"}
        pieces.append(Piece(graphs["chunk_closing"], "closing", last))
        results = ["x0", "next_x", *results]
    examples, _ = _examples(kind, config, dtype)
    inputs = [each for name in examples
              for each in ([f"{name}_{index}" for index in layers]
                           if name.endswith(("_k", "_v")) else [name])]  # fmt: skip
    return stitched(pieces, inputs, results)


_NOT_OF_LAYERS = ("x", "noise", "sigma", "next_sigma")
"""Inputs of passes that only their opening or closing reads."""


_PIECES = tuple(f"{place}_{part}" for place in ("front", "back", "caption") for part in "kv")
"""Inputs of which every layer has its own."""

_SHARED = ("embedded", "rotation", "own_rotation", "front_rotation", "back_rotation")
"""Inputs that all layers read alike."""


def _of_layer(layer: ModelProto, index: int) -> dict[str, str]:
    """What a layer's inputs and results are called in a pass.

    Args:
        layer: exported with weights named as in its part of a block.
        index: of the layer.
    """
    names = {"x": f"/x_{index}", "y": f"/x_{index + 1}"}
    for value in (*layer.graph.input, *layer.graph.output):
        name = value.name
        if name in ("k", "v", *_PIECES):
            names[name] = f"{name}_{index}"
        elif name not in names and name not in _SHARED:
            names[name] = f"blocks.{index}.{name}"
    return names


def _examples(
    kind: str, config: StreamConfig, dtype: torch.dtype
) -> tuple[dict[str, Tensor], dict[str, tuple[int, str]]]:
    """A kind's arguments on the meta device, and which axis of which has any length.

    What each layer has of its own is among them once.
    """
    model, frame_tokens = config.model, config.model.tokens_per_frame
    heads = (model.num_heads, model.head_dim)

    def fresh(*shape: int, kind: torch.dtype = dtype) -> Tensor:
        return torch.empty(shape, dtype=kind, device="meta")

    def table(tokens: int) -> Tensor:
        return fresh(tokens, model.head_dim // 2, 2, kind=torch.float32)

    if kind == "captions":
        return {"text": fresh(1, model.text_len, model.text_dim)}, {}
    frames = config.cache.context_frames if kind == "context" else config.shot.chunk_frames
    latents = (1, frames, model.in_dim, model.latent_height, model.latent_width)
    examples = {"x": fresh(*latents), "rotation": table(frames * frame_tokens)}
    rows = frames if kind == "context" else 1
    head_major = (rows, model.num_heads, model.text_len, model.head_dim)
    captions = {name: fresh(*head_major) for name in ("caption_k", "caption_v")}
    if kind == "context":
        return examples | captions, {}
    dynamic = {}
    for place, count in (("front", 6), ("back", 4)):
        for part in ("k", "v"):
            examples[f"{place}_{part}"] = fresh(1, count * frame_tokens, *heads)
            dynamic[f"{place}_{part}"] = (1, f"{place}_tokens")
        if config.cache.key_rotation == "on_read":
            examples[f"{place}_rotation"] = table(count * frame_tokens)
            dynamic[f"{place}_rotation"] = (0, f"{place}_tokens")
    if config.cache.key_rotation == "on_read":
        examples["own_rotation"] = table(frames * frame_tokens)
    examples |= captions
    examples["noise"] = fresh(*latents)
    examples |= {name: fresh(kind=torch.float32) for name in ("sigma", "next_sigma")}
    return examples, dynamic


def _constants(own: _Pass) -> Mapping[str, np.ndarray[Any, Any]]:
    """What is folded into a pass's file."""
    names = ("sigma", "next_sigma")
    return {
        name: np.array(level, dtype=np.float32)
        for name, level in zip(names, own.sigmas, strict=False)
    }
