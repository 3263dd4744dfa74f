"""Checkpoint files in, checked tensors out.

The one front door for weights: safetensors, torch ``.pt``/``.pth`` (tensors only, nothing in a file
is ever executed), the released ShotStream containers, LoRA files, and the project's own
``student.safetensors``. Called by the codecs, the text encoder, the session and the trainers. It
knows names and shapes, not mathematics; where released files lie is ``released.py``'s business.

Source: checkpoint layouts of ShotStream and Wan2.1 (names ``model.*``, FSDP fragments, PEFT names).
"""

from __future__ import annotations

import itertools
import pickle
import re
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from shotstream_rt.config import ModelConfig
from shotstream_rt.errors import ConfigError, WeightsError

from .lora import merge_lora

_FSDP_FRAGMENTS = ("_fsdp_wrapped_module.", "_checkpoint_wrapped_module.")
_DEFAULT_HEAD_DIM = 128
_SAFE_TORCH = "2.6"  # before it, weights_only=True could be escaped (CVE-2025-32434)
_LAYER = re.compile(r"blocks\.([0-9]+)\.")
_LISTED = 5  # names per complaint: enough to see the pattern


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint file as it is: tensors, possibly inside named groups.

    Args:
        path: ``.safetensors``, or a torch file whatever its ending. Memory-mapped where the
            format allows, so unused groups (optimizers) are not read.

    Raises:
        WeightsError: missing, truncated, not a checkpoint, or a pickle that holds anything but
            tensors and plain containers. Nothing in it is executed.
    """
    path = Path(path)
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "is missing"
        raise WeightsError(f"{path}: {what}, wanted a checkpoint file (.safetensors, .pt, .pth)")
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    return _read_torch(path)


def load_checkpoint(path: str | Path) -> dict[str, Tensor]:
    """Read a flat checkpoint file: every entry a tensor. See ``read_checkpoint``."""
    return _only_tensors(read_checkpoint(path), str(path))


def student_state(
    path: str | Path,
    config: ModelConfig | None = None,
    *,
    ema: bool = False,
    lora: str | Path | None = None,
    lora_alpha: float | None = None,
) -> dict[str, Tensor]:
    """Read a student (or teacher) and return it under bare Wan names.

    Args:
        path: the released ``.pt``, a trainer checkpoint, Wan's safetensors, or a folder with the
            project's ``student.safetensors``.
        config: shapes wanted; ``None`` infers them from the file itself and checks consistency.
        ema: take ``generator_ema`` instead of ``generator``.
        lora: a LoRA file (PEFT names, or a trainer checkpoint with ``generator_lora``) to merge in
            float32 before returning.
        lora_alpha: LoRA alpha; ``None`` reads ``adapter_config.json`` beside the file, else takes
            the rank (scale 1, as ShotStream trains).

    Returns:
        Exactly the tensors of ``student_shapes(config)``, in the file's dtype.

    Raises:
        WeightsError: see ``read_checkpoint``; also a missing group or wrong names or shapes.
    """
    path = Path(path)
    if path.is_dir():
        path = path / "student.safetensors"
    raw = read_checkpoint(path)
    state = bare_names(_group(raw, "generator_ema" if ema else "generator", str(path)), str(path))
    if config is None:
        # Heads do not show in any shape, so any number will do for this check.
        config = infer_model_config(state, num_heads=1, source=str(path))
    check_tensors(state, student_shapes(config), str(path))
    if lora is not None:
        lora_raw = read_checkpoint(lora)
        adapters = bare_names(_group(lora_raw, "generator_lora", str(lora)), str(lora))
        state = merge_lora(state, adapters, source=Path(lora), alpha=lora_alpha)
    return state


def bare_names(state: Mapping[str, Tensor], source: str) -> dict[str, Tensor]:
    """Return ``state`` without FSDP fragments and without one leading ``model.``.

    Raises:
        WeightsError: two tensors end up under one name.
    """
    bare: dict[str, Tensor] = {}
    for name, tensor in state.items():
        short = name
        for fragment in _FSDP_FRAGMENTS:
            short = short.replace(fragment, "")
        short = short.removeprefix("model.")
        if short in bare:
            raise WeightsError(f"{source}: tensor {short!r} appears twice (also as {name!r})")
        bare[short] = tensor
    return bare


def student_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Return every tensor name of a student with its shape: 825 at the released size."""
    dim, ffn = config.dim, config.ffn_dim
    patch = (config.in_dim, *ModelConfig.PATCH)
    shapes: dict[str, tuple[int, ...]] = {}

    def linear(name: str, inputs: int, outputs: int) -> None:
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
    """Read the model's shape off its tensors.

    Args:
        state: bare names.
        latent_height: not in the tensors; rows of a latent frame.
        latent_width: columns of a latent frame.
        num_heads: not in the tensors; ``None`` means heads of 128 features.
        text_len: not in the tensors; caption positions.
        source: named in errors.

    Raises:
        WeightsError: a tensor needed is missing, or ``num_heads`` has to be told.
    """

    def shape(name: str, rank: int) -> tuple[int, ...]:
        tensor = state.get(name)
        if tensor is None or tensor.dim() != rank:
            got = "nothing" if tensor is None else f"shape {tuple(tensor.shape)}"
            raise WeightsError(f"{source}: tensor {name!r}: got {got}, wanted {rank} dimensions; "
                               "is this a Wan or ShotStream transformer?")  # fmt: skip
        return tuple(tensor.shape)

    dim, in_dim = shape("patch_embedding.weight", 5)[:2]
    if num_heads is None:
        if dim % _DEFAULT_HEAD_DIM:
            raise WeightsError(
                f"{source}: got dim {dim} and no head count, wanted num_heads from a config.json "
                f"beside the file (only multiples of {_DEFAULT_HEAD_DIM} can be guessed)"
            )
        num_heads = dim // _DEFAULT_HEAD_DIM
    # Counted, not the largest number: a gap then shows as a missing tensor.
    layers = {match[1] for match in map(_LAYER.match, state) if match}
    rows, columns = ModelConfig.PATCH[1:]
    try:
        return ModelConfig(
            dim=dim, in_dim=in_dim, ffn_dim=shape("blocks.0.ffn.0.weight", 2)[0],
            num_heads=num_heads, num_layers=len(layers),
            text_dim=shape("text_embedding.0.weight", 2)[1], text_len=text_len,
            freq_dim=shape("time_embedding.0.weight", 2)[1],
            out_dim=shape("head.head.weight", 2)[0] // (rows * columns),
            latent_height=latent_height, latent_width=latent_width,
            cache_indicator="cache_indicator.weight" in state,
        )  # fmt: skip
    except ConfigError as error:
        raise WeightsError(f"{source}: no usable model has these shapes ({error})") from error


def check_tensors(
    state: Mapping[str, Tensor], wanted: Mapping[str, Iterable[int]], source: str
) -> None:
    """Check that ``state`` has exactly the names and shapes ``wanted``, all float.

    Raises:
        WeightsError: naming the file and a handful of the tensors at fault.
    """
    complaints = []
    for what, names in (
        ("missing", [name for name in wanted if name not in state]),
        ("unexpected", [name for name in state if name not in wanted]),
    ):
        if names:
            complaints.append(f"{len(names)} {what}: {_listing(names)}")
    shapes = [
        f"{name} {tuple(state[name].shape)} (wanted {tuple(shape)})"
        for name, shape in wanted.items()
        if name in state and tuple(state[name].shape) != tuple(shape)
    ]
    if shapes:
        complaints.append(f"{len(shapes)} of another shape: {_listing(shapes)}")
    kinds = [
        f"{name} ({tensor.dtype})"
        for name, tensor in state.items()
        if name in wanted and not tensor.is_floating_point()
    ]
    if kinds:
        complaints.append(f"{len(kinds)} not of a float type: {_listing(kinds)}")
    if complaints:
        raise WeightsError(
            f"{source}: got {len(state)} tensors, wanted {len(wanted)}; " + "; ".join(complaints)
            + ". Check that the file belongs to this model and its configured size."
        )  # fmt: skip


def load_into(
    network: nn.Module,
    state: Mapping[str, Tensor],
    *,
    source: str,
    device: torch.device | str,
    dtype: torch.dtype | None,
) -> None:
    """Put ``state`` into a network (made on the meta device), strictly, one tensor at a time.

    Args:
        network: its parameters are replaced, so its own values are never allocated.
        state: exactly the network's names and shapes.
        source: named in errors.
        device: where the parameters go.
        dtype: what they are cast to; ``None`` keeps the file's.

    Raises:
        WeightsError: names or shapes differ.
    """
    check_tensors(state, {k: v.shape for k, v in network.state_dict().items()}, source)
    # A copy even when nothing changes: the file may be replaced while its mapping is in use.
    placed = {k: v.to(device=device, dtype=dtype or v.dtype, copy=True) for k, v in state.items()}
    network.load_state_dict(placed, strict=True, assign=True)


def _group(raw: Mapping[str, Any], key: str, source: str) -> dict[str, Tensor]:
    """Return the tensors under ``key``, or ``raw`` itself when it is flat."""
    if key in raw:
        if not isinstance(raw[key], Mapping):
            raise WeightsError(f"{source}: {key!r} is a {type(raw[key]).__name__}, wanted tensors")
        return _only_tensors(raw[key], f"{source}[{key}]")
    if key != "generator_ema" and any(isinstance(value, Tensor) for value in raw.values()):
        return _only_tensors(raw, source)
    raise WeightsError(f"{source}: got {_listing(map(str, raw))}, wanted a group named {key!r}")


def _only_tensors(raw: Mapping[Any, Any], source: str) -> dict[str, Tensor]:
    others = [f"{k} ({type(v).__name__})" for k, v in raw.items() if not isinstance(v, Tensor)]
    if others or not raw:
        raise WeightsError(
            f"{source}: got {_listing(others) or 'nothing'}, wanted only named tensors"
        )
    return {str(name): tensor for name, tensor in raw.items()}


def _read_safetensors(path: Path) -> dict[str, Any]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return dict(load_file(path))
    except (SafetensorError, OSError, ValueError) as error:
        raise WeightsError(
            f"{path}: not a readable safetensors file ({_first_line(error)}); is the download "
            "complete?"
        ) from error


def _read_torch(path: Path) -> dict[str, Any]:
    if torch.__version__ < _SAFE_TORCH:
        raise WeightsError(
            f"{path}: refused: torch {torch.__version__} can be made to execute code by a pickle "
            f"file, wanted torch >= {_SAFE_TORCH} or a .safetensors file"
        )
    try:
        # Only the zip container can be mapped; the older one is a bare pickle.
        raw = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError as error:
        raise WeightsError(
            f"{path}: refused: it is not a torch file of plain tensors ({_first_line(error)}). "
            "Nothing in it was executed; convert it to safetensors where you trust it."
        ) from error
    except Exception as error:  # a damaged file may raise anything the parsers can
        raise WeightsError(
            f"{path}: not a readable torch file ({_first_line(error)}); is the download complete?"
        ) from error
    if not isinstance(raw, dict):
        raise WeightsError(f"{path}: got a {type(raw).__name__}, wanted named tensors")
    return raw


def _listing(names: Iterable[str]) -> str:
    shown = list(itertools.islice(iter(names), _LISTED + 1))
    return ", ".join(shown[:_LISTED]) + (", ..." if len(shown) > _LISTED else "")


def _first_line(error: Exception) -> str:
    text = str(error).strip()
    return text.splitlines()[0][:200] if text else type(error).__name__
