"""LoRA adapters folded into the weights they adapt.

Called by ``student_weights.py`` and the trainers. ``W + (alpha / r) B A`` per adapted layer, in
float32, computed when the weight is read.

Source: ShotStream stage 2 (rank 256, alpha 256, every linear layer of every transformer block);
tensor names as PEFT writes them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from shotstream_rt.errors import ConfigError, WeightsError
from shotstream_rt.inputs import parse_json, read_text
from shotstream_rt.printable import shown

from ..model.checkpoint import WEIGHT_DTYPES
from ..model.lazy_tensors import LazyTensor, LazyTensors, listing, temporary

_NAME = re.compile(r"^(?:base_model\.)?(?:model\.)?(.+)\.lora_([AB])(?:\.default)?\.weight$")
_MAX_CONFIG_BYTES = 1 << 20
_PEFT_FILES = ("adapter_model.safetensors", "adapter_model.bin")


def adapter_file(path: str | Path) -> Path:
    """Return the file with the adapters: ``path`` itself, or the one in a folder PEFT wrote.

    Raises:
        WeightsError: a folder without one, or no usable name.
        ConfigError: not a path.
    """
    if not isinstance(path, str | Path):
        raise ConfigError(f"lora: got {shown(path)}, wanted a file or a folder")
    try:
        path = Path(path).expanduser()
        if not path.is_dir():
            return path
    except (OSError, RuntimeError, ValueError) as error:  # no such user, too long, a zero byte
        why = getattr(error, "strerror", None) or error
        raise WeightsError(f"lora {shown(str(path))}: not a file's name ({why})") from error
    found = [path / name for name in _PEFT_FILES if (path / name).is_file()]
    if not found:
        raise WeightsError(
            f"{path}: lora: no {' or '.join(_PEFT_FILES)} in this folder, wanted a LoRA file or a "
            "folder that PEFT wrote"
        )
    return found[0]


def merge_lora(
    state: Mapping[str, Tensor],
    adapters: Mapping[str, Tensor],
    *,
    source: Path,
    alpha: float | None = None,
) -> LazyTensors:
    """Return ``state`` with every adapter merged; tensors without one are passed through.

    Names, shapes and types are checked at once; nothing is read or computed before a tensor of the
    result is asked for.

    Args:
        state: bare names; a weight is ``[out, in]``.
        adapters: ``<layer>.lora_A.weight`` ``[r, in]`` and ``<layer>.lora_B.weight`` ``[out, r]``,
            with or without PEFT's ``base_model.model.`` in front.
        source: the adapters' file; an ``adapter_config.json`` beside it gives alpha.
        alpha: overrides it; without either, alpha is the rank.

    Returns:
        The same names and shapes; merged weights are float32.

    Raises:
        WeightsError: names or shapes of another model, a name that is not an adapter's, half an
            adapter, or one whose halves differ in rank.
    """
    if alpha is None:
        alpha = _configured_alpha(source)
    merged = dict(LazyTensors.of(state).entries)
    for layer, pair in _pairs(adapters, merged, source).items():
        weight = merged[f"{layer}.weight"]
        rank = _check_pair(layer, pair, weight, source)
        scale = 1.0 if alpha is None else alpha / rank
        fill = partial(_merge, weight, pair["A"], pair["B"], scale)
        parts = (weight, pair["A"], pair["B"])
        merged[f"{layer}.weight"] = LazyTensor(
            weight.shape, torch.float32, fill, sample=partial(_sample, parts, scale)
        )
    return LazyTensors(merged)


def _pairs(
    adapters: Mapping[str, Tensor], state: Mapping[str, LazyTensor], source: Path
) -> dict[str, dict[str, LazyTensor]]:
    """Return by layer the adapter's two halves, ``A`` and ``B``."""
    pairs: dict[str, dict[str, LazyTensor]] = {}
    strangers = []
    for name, entry in LazyTensors.of(adapters).entries.items():
        match = _NAME.match(name)
        if match is None or f"{match[1]}.weight" not in state:
            strangers.append(name)
        else:
            pairs.setdefault(match[1], {})[match[2]] = entry
    if strangers:
        raise WeightsError(
            f"{source}: lora: {len(strangers)} of {len(adapters)} tensors adapt no layer of this "
            f"model: {listing(strangers)}; wanted base_model.model.<layer>.lora_A.weight and "
            ".lora_B.weight. Was it trained for another model?"
        )
    return pairs


def _check_pair(
    layer: str, pair: Mapping[str, LazyTensor], weight: LazyTensor, source: Path
) -> int:
    """Return the rank of a layer's adapter."""
    shapes = {side: entry.shape for side, entry in pair.items()}
    where = f"{source}: lora: layer {layer!r}: got {shapes}"
    if set(pair) != {"A", "B"} or any(len(shape) != 2 for shape in shapes.values()):
        raise WeightsError(f"{where}, wanted two matrices, A [r, in] and B [out, r]")
    rank = shapes["A"][0]
    if rank == 0 or shapes["B"][1] != rank:
        raise WeightsError(f"{where}, wanted one rank: A [r, in] and B [out, r]")
    if weight.shape != (shapes["B"][0], shapes["A"][1]):
        raise WeightsError(
            f"{where}, wanted A [r, in] and B [out, r] for a weight [out, in] of {weight.shape}. "
            "Was it trained for another model?"
        )
    kinds = {str(entry.dtype) for entry in pair.values() if entry.dtype not in WEIGHT_DTYPES}
    if kinds:
        raise WeightsError(
            f"{where} of type {', '.join(sorted(kinds))}, wanted a float type of 16 bits or more"
        )
    return rank


def _merge(weight: LazyTensor, a: LazyTensor, b: LazyTensor, scale: float, into: Tensor) -> None:
    """Fill ``into`` with ``weight + scale * b @ a``, computed in float32."""
    halves = temporary(a.shape, torch.float32), temporary(b.shape, torch.float32)
    a.fill(halves[0])
    b.fill(halves[1])
    update = torch.mm(halves[1], halves[0], out=temporary(weight.shape, torch.float32))
    merged = into
    if into.dtype != torch.float32 or into.device.type != "cpu":
        merged = temporary(weight.shape, torch.float32)
    weight.fill(merged)
    merged.add_(update, alpha=scale)
    if merged is not into:
        into.copy_(merged)


def _sample(parts: Sequence[LazyTensor], scale: float) -> bytes:
    """Return what tells one merged weight from another without merging it."""
    return f"{scale!r}".encode() + b"".join(part.sampled() for part in parts)


def _configured_alpha(source: Path) -> float | None:
    path = source.parent / "adapter_config.json"
    if not path.is_file():
        return None
    text = read_text(
        path, limit_bytes=_MAX_CONFIG_BYTES, what="LoRA configuration", error=WeightsError
    )
    config = parse_json(text, path, WeightsError)
    alpha = config.get("lora_alpha") if isinstance(config, dict) else None
    if not isinstance(alpha, int | float) or isinstance(alpha, bool) or not 0 < alpha <= 1e6:
        raise WeightsError(
            f"{path}: lora_alpha: got {shown(alpha)}, wanted PEFT's JSON with a number up to 1e6"
        )
    unusual = [k for k in ("use_rslora", "use_dora", "alpha_pattern", "rank_pattern")
               if config.get(k)]  # fmt: skip
    if unusual:
        raise WeightsError(
            f"{path}: got {', '.join(unusual)}, wanted plain LoRA; merge it with PEFT first"
        )
    return float(alpha)
