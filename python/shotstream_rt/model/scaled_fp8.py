"""Weights in 8-bit floats with a scale per tensor or per row, as single-file tools write them.

Called where a student or umT5 is opened. The product of weight and scale is computed in float32
when a tensor is read, and cast to the type that the rest is computed in. It is not the original
any more, so whoever opens such a file gets a note that says so.

Source: the safetensors files of ComfyUI: ``LAYER.weight`` beside ``LAYER.scale_weight`` and a
marker ``scaled_fp8``, or beside ``LAYER.weight_scale``.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from shotstream_rt.errors import WeightsError
from shotstream_rt.printable import printable

from .lazy_tensors import LazyTensor, LazyTensors, listing, temporary

_TYPES = (torch.float8_e4m3fn, torch.float8_e5m2)
_SCALES = ("scale_weight", "weight_scale")
_MARKERS = ("scaled_fp8",)
_BESIDE = ("scale_input", "input_scale", "comfy_quant")
"""What such files keep beside a weight for 8-bit activations, which nothing here computes with."""


def dequantised(tensors: LazyTensors, source: str) -> tuple[LazyTensors, str | None]:
    """Return tensors with every scaled 8-bit weight as float32.

    Args:
        tensors: under any names; a weight and its scale share what stands in front.
        source: the file, named in errors.

    Returns:
        The tensors without scales and markers, and a note for the user; the same tensors and
        ``None`` where there are no scales.

    Raises:
        WeightsError: a scale without its weight, an 8-bit weight without a scale, or a scale of a
            shape that does not go with its weight.
    """
    entries = tensors.entries
    scales = {name: name.rpartition(".")[0] for name in entries if _last(name) in _SCALES}
    if not scales:
        return tensors, None
    dropped = {name for name in entries if name in scales or _last(name) in (*_MARKERS, *_BESIDE)}
    kept = {name: entry for name, entry in entries.items() if name not in dropped}
    for name, layer in scales.items():
        weight = f"{layer}.weight"
        if weight not in kept:
            raise WeightsError(
                f"{source}: tensor {printable(name, 200)!r} is a scale, and "
                f"{printable(weight, 200)!r} is not there; is the file complete?"
            )
        kept[weight] = _product(kept[weight], entries[name], f"{source}: tensor {name!r}")
    bare = [name for name, entry in kept.items() if entry.dtype in _TYPES]
    if bare:
        raise WeightsError(
            f"{source}: got {len(bare)} 8-bit tensors without a scale beside others that have one, "
            f"such as {listing(bare)}; is the file complete?"
        )
    return LazyTensors(kept), (
        f"{source}: {len(scales)} weights are 8-bit floats with scales; they were made whole again "
        "in float32, but what was rounded away is gone, so results differ from the original file's"
    )


def _last(name: str) -> str:
    return name.rpartition(".")[2]


def _product(weight: LazyTensor, scale: LazyTensor, where: str) -> LazyTensor:
    rows = weight.shape[0] if weight.shape else 1
    if scale.shape not in ((), (1,), (rows,), (rows, 1)):
        raise WeightsError(
            f"{where}: got a scale of shape {printable(scale.shape, 80)} for a weight of "
            f"{printable(weight.shape, 80)}, wanted one number, or one per row"
        )
    if weight.dtype not in _TYPES or not scale.dtype.is_floating_point:
        raise WeightsError(
            f"{where}: got a scale in {scale.dtype} for a weight in {weight.dtype}, wanted floats: "
            "the weight in 8 bits, the scale in 16 or more"
        )
    parts = (weight, scale)
    return LazyTensor(
        weight.shape, torch.float32, partial(_fill, weight, scale),
        sample=lambda: b"".join(part.sampled() for part in parts),
    )  # fmt: skip


def _fill(weight: LazyTensor, scale: LazyTensor, into: Tensor) -> None:
    whole = into
    if into.dtype != torch.float32 or into.device.type != "cpu":
        whole = temporary(weight.shape, torch.float32)
    weight.fill(whole)
    factor = scale.to("cpu", torch.float32)
    whole.mul_(factor if factor.numel() == 1 else factor.view(-1, *(1,) * (whole.dim() - 1)))
    if whole is not into:
        into.copy_(whole)
