"""The student's tensors: their names and shapes, and where a checkpoint keeps them.

Opens a student (or teacher) from the released ShotStream container, a trainer's checkpoint, Wan's
safetensors or the project's own ``student.safetensors``, with a LoRA file merged in if one is
asked for. Called by the loader and the trainers. It knows names and shapes only;
``model/checkpoint.py`` reads files.

Source: checkpoint layouts of ShotStream and Wan2.1 (names ``model.*``, FSDP fragments, PEFT names).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from shotstream_rt.config import ModelConfig
from shotstream_rt.errors import ConfigError, WeightsError
from shotstream_rt.printable import printable

from ..model.checkpoint import (
    check_tensors,
    has_network,
    inner_group,
    load_folder,
    only_tensors,
    read_checkpoint,
)
from ..model.diffusers_names import STUDENT_ANCHOR, student_under_wan_names
from ..model.lazy_tensors import LazyTensors, listing
from ..model.scaled_fp8 import dequantised
from ..model.wrappers import without_wrappers
from .lora import adapter_file, merge_lora

_ANCHORS = ("patch_embedding.weight", STUDENT_ANCHOR)
"""What tells a student under the names that a tool put around it."""

_DEFAULT_HEAD_DIM = 128
_LAYER = re.compile(r"blocks\.([0-9]+)\.")
_WEIGHTS, _AVERAGE, _ADAPTERS = "generator", "generator_ema", "generator_lora"
"""Groups of a trainer's checkpoint. ShotStream's released file has the first alone."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class StudentWeights:
    """A student in a file, checked; nothing of its data is read yet.

    Attributes:
        config: the shape of its tensors.
        tensors: exactly those of ``student_shapes(config)`` under bare names, in the file's type;
            what a LoRA file adapts is float32.
        source: the file, for messages.
        group: of a trainer's checkpoint that was taken; ``None`` where the file has no groups.
        average_left: the file has a running average too, which was not taken.
        note: what a user should know about the file's weights.
    """

    config: ModelConfig
    tensors: LazyTensors
    source: str
    group: str | None = None
    average_left: bool = False
    note: str | None = None

    def digest(self) -> str:
        """Return what tells these weights from others, a LoRA merged into them included.

        Some kilobytes of every tensor are read: 15 ms at the released size.
        """
        return self.tensors.digest()


def open_student(
    path: str | Path,
    config: ModelConfig | None = None,
    *,
    num_heads: int | None = None,
    ema: bool = False,
    lora: str | Path | None = None,
    lora_alpha: float | None = None,
    groups: Sequence[str] = (_WEIGHTS,),
) -> StudentWeights:
    """Open a student (or teacher) and check its tensors by the file's header alone.

    Args:
        path: the released ``.pt``, a trainer's checkpoint, Wan's safetensors, a transformer's
            folder in Diffusers' layout, or a folder with the project's ``student.safetensors``.
        config: the shapes wanted; ``None`` infers them from the file (see ``infer_model_config``)
            and checks that every layer agrees with them.
        num_heads: attention heads where ``config`` is ``None``; ``None`` means heads of 128
            features.
        ema: take the trainer's running average, ``generator_ema``, instead of ``generator``.
        lora: a LoRA file or PEFT's folder (PEFT names, or a trainer's checkpoint with
            ``generator_lora``). Each weight is merged in float32 when it is read.
        lora_alpha: LoRA alpha; ``None`` reads ``adapter_config.json`` beside the file, else takes
            the rank (scale 1, as ShotStream trains).
        groups: of a trainer's checkpoint; the first that is there is taken.

    Raises:
        WeightsError: see ``read_checkpoint``; also a group that is not there, names or shapes that
            differ, or a LoRA file made for another model.
    """
    path = Path(path)
    if path.is_dir() and not has_network(path):
        path = path / "student.safetensors"
    source = str(path)
    raw = load_folder(path) if path.is_dir() else read_checkpoint(path)
    group = next((key for key in ((_AVERAGE,) if ema else groups) if key in raw), None)
    found = _average(raw, source) if ema else _group(raw, group or groups[0], source)
    whole, note = dequantised(found, source)
    tensors = bare_names(whole, source)
    if config is None:
        config = infer_model_config(tensors, num_heads=num_heads, source=source)
    check_tensors(tensors, student_shapes(config), source)
    if lora is not None:
        file = adapter_file(lora)
        found = _group(read_checkpoint(file), _ADAPTERS, str(file))
        adapters = bare_names(found, str(file))
        tensors = merge_lora(tensors, adapters, source=file, alpha=lora_alpha)
    return StudentWeights(
        config=config, tensors=tensors.checked(source), source=source, group=group, note=note,
        average_left=_AVERAGE in raw and group != _AVERAGE,
    )  # fmt: skip


def bare_names(state: Mapping[str, Tensor], source: str) -> LazyTensors:
    """Return ``state`` under the student's own names, whatever tools put around or in their place.

    Args:
        state: tensors under the file's names; see ``without_wrappers``.
        source: the file, named in errors.

    Raises:
        WeightsError: two tensors end up under one name, or several networks are in the file.
    """
    return student_under_wan_names(without_wrappers(state, source, _ANCHORS), source)


def student_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Return every tensor name of a student with its shape: 825 at the released size."""
    dim, ffn = config.dim, config.ffn_dim
    patch = (config.in_dim, *ModelConfig.PATCH)
    shapes: dict[str, tuple[int, ...]] = {}

    def linear(name: str, inputs: int, outputs: int) -> None:
        """Add a linear layer's weight and bias.

        Args:
            name: of the layer.
            inputs: its input width.
            outputs: its output width.
        """
        shapes[f"{name}.weight"] = (outputs, inputs)
        shapes[f"{name}.bias"] = (outputs,)

    shapes["patch_embedding.weight"] = (dim, *patch)
    shapes["patch_embedding.bias"] = (dim,)
    linear("text_embedding.0", config.text_dim, dim)
    linear("text_embedding.2", dim, dim)
    linear("time_embedding.0", config.freq_dim, dim)
    linear("time_embedding.2", dim, dim)
    linear("time_projection.1", dim, 6 * dim)
    for layer in range(config.num_layers):
        block = f"blocks.{layer}"
        shapes[f"{block}.modulation"] = (1, 6, dim)
        for attention in ("self_attn", "cross_attn"):
            for projection in "qkvo":
                linear(f"{block}.{attention}.{projection}", dim, dim)
            shapes[f"{block}.{attention}.norm_q.weight"] = (dim,)
            shapes[f"{block}.{attention}.norm_k.weight"] = (dim,)
        shapes[f"{block}.norm3.weight"] = (dim,)
        shapes[f"{block}.norm3.bias"] = (dim,)
        linear(f"{block}.ffn.0", dim, ffn)
        linear(f"{block}.ffn.2", ffn, dim)
    if config.cache_indicator:
        shapes["cache_indicator.weight"] = (2, dim)
    shapes["head.modulation"] = (1, 2, dim)
    rows, columns = ModelConfig.PATCH[1:]
    linear("head.head", dim, config.out_dim * rows * columns)
    return shapes


def infer_model_config(
    state: Mapping[str, Tensor],
    latent_height: int = 60,
    latent_width: int = 104,
    *,
    num_heads: int | None = None,
    text_len: int = 512,
    source: str = "student weights",
) -> ModelConfig:
    """Read the model's shape off its tensors; reads no data.

    Args:
        state: bare names.
        latent_height: not in the tensors; rows of a latent frame.
        latent_width: columns of a latent frame.
        num_heads: not in the tensors; ``None`` means heads of 128 features.
        text_len: not in the tensors; caption positions.
        source: named in errors.

    Raises:
        WeightsError: a tensor needed is missing, or ``num_heads`` has to be given.
    """
    entries = LazyTensors.of(state).entries

    def shape(name: str, rank: int) -> tuple[int, ...]:
        entry = entries.get(name)
        if entry is None or len(entry.shape) != rank:
            got = "nothing" if entry is None else f"shape {printable(entry.shape, 80)}"
            raise WeightsError(
                f"{source}: tensor {name!r}: got {got}, wanted {rank} dimensions; is this a "
                f"Wan or ShotStream transformer? The file has {len(entries)} tensors: "
                f"{listing(entries)}"
            )
        return entry.shape

    dim, in_dim = shape("patch_embedding.weight", 5)[:2]
    if num_heads is None:
        if dim % _DEFAULT_HEAD_DIM:
            raise WeightsError(
                f"{source}: got dim {dim} and no head count, wanted num_heads from a config.json "
                f"beside the file (only multiples of {_DEFAULT_HEAD_DIM} can be guessed)"
            )
        num_heads = dim // _DEFAULT_HEAD_DIM
    # Counted, not the largest number: a gap then shows as a missing tensor.
    layers = {match[1] for match in map(_LAYER.match, entries) if match}
    rows, columns = ModelConfig.PATCH[1:]
    try:
        return ModelConfig(
            dim=dim, in_dim=in_dim, ffn_dim=shape("blocks.0.ffn.0.weight", 2)[0],
            num_heads=num_heads, num_layers=len(layers),
            text_dim=shape("text_embedding.0.weight", 2)[1], text_len=text_len,
            freq_dim=shape("time_embedding.0.weight", 2)[1],
            out_dim=shape("head.head.weight", 2)[0] // (rows * columns),
            latent_height=latent_height, latent_width=latent_width,
            cache_indicator="cache_indicator.weight" in entries,
        )  # fmt: skip
    except ConfigError as error:
        first = "patch_embedding.weight"
        raise WeightsError(
            f"{source}: no usable model has these shapes ({error}); its width was read off tensor "
            f"{first!r} of shape {entries[first].shape}"
        ) from error


def _group(raw: Mapping[str, Any], key: str, source: str) -> LazyTensors:
    """Return the tensors of a group, or all of them where the file has no groups."""
    if key in raw:
        return _named_group(raw, key, source)
    raw = inner_group(raw)
    if _is_flat(raw):
        return only_tensors(raw, source)
    raise WeightsError(
        f"{source}: got {listing(map(str, raw)) or 'nothing'}, wanted a group named {key!r}; "
        "is it this student's file?"
    )


def _average(raw: Mapping[str, Any], source: str) -> LazyTensors:
    """Return the trainer's running average, which no flat file has."""
    if _AVERAGE in raw:
        return _named_group(raw, _AVERAGE, source)
    there = "tensors without groups" if _is_flat(raw) else listing(map(str, raw)) or "nothing"
    raise WeightsError(
        f"{source}: ema: got {there}, wanted a trainer's checkpoint with a group named "
        f"{_AVERAGE!r}; open it without ema for the weights that are there"
    )


def _named_group(raw: Mapping[str, Any], key: str, source: str) -> LazyTensors:
    if isinstance(raw, LazyTensors) or not isinstance(raw[key], Mapping):
        got = "tensor" if isinstance(raw, LazyTensors) else type(raw[key]).__name__
        raise WeightsError(f"{source}: {key!r}: got a {got}, wanted a group of named tensors")
    return only_tensors(raw[key], f"{source}[{key}]")


def _is_flat(raw: Mapping[str, Any]) -> bool:
    """Tell whether tensors lie in the file itself and not in groups."""
    return isinstance(raw, LazyTensors) or any(isinstance(v, Tensor) for v in raw.values())
