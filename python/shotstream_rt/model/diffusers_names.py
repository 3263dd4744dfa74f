"""Names of Wan's networks in Diffusers' folders, and the ones that Wan gave them.

Called where a student or the VAE is opened. Only names differ: the tensors are the same.

Source: the state dicts of Diffusers' ``WanTransformer3DModel`` and ``AutoencoderKLWan``.
"""

from __future__ import annotations

import re

from .lazy_tensors import LazyTensors
from .wrappers import renamed

STUDENT_ANCHOR = "condition_embedder.time_proj.weight"
VAE_ANCHOR = "post_quant_conv.weight"
"""Tensors that only Diffusers' form of the network has."""

_STUDENT_FRONTS = {
    "condition_embedder.time_embedder.linear_1.": "time_embedding.0.",
    "condition_embedder.time_embedder.linear_2.": "time_embedding.2.",
    "condition_embedder.text_embedder.linear_1.": "text_embedding.0.",
    "condition_embedder.text_embedder.linear_2.": "text_embedding.2.",
    "condition_embedder.time_proj.": "time_projection.1.",
    "proj_out.": "head.head.",
}
_BLOCK = re.compile(r"blocks\.([0-9]+)\.(.+)")
_BLOCK_FRONTS = {
    "ffn.net.0.proj.": "ffn.0.",
    "ffn.net.2.": "ffn.2.",
    # Wan calls the norm in front of the cross attention its third, Diffusers its second.
    "norm2.": "norm3.",
}
_PROJECTION = re.compile(r"attn([12])\.(?:to_(q|k|v|out\.0)|norm_(q|k))\.(weight|bias)")
_ATTENTION = {"1": "self_attn", "2": "cross_attn"}

_VAE_FRONTS = {
    "conv_in.": "conv1.", "norm_out.": "head.0.", "conv_out.": "head.2.",
    "mid_block.resnets.0.": "middle.0.", "mid_block.attentions.0.": "middle.1.",
    "mid_block.resnets.1.": "middle.2.",
}  # fmt: skip
_VAE_PARTS = {
    "norm1.": "residual.0.", "conv1.": "residual.2.", "norm2.": "residual.3.",
    "conv2.": "residual.6.", "conv_shortcut.": "shortcut.",
}  # fmt: skip
_RESNETS_PER_LEVEL = 3
_DOWN, _UP = (
    re.compile(r"down_blocks\.([0-9]+)\.(.+)"),
    re.compile(r"up_blocks\.([0-9]+)\.(?:resnets\.([0-9]+)|(upsamplers)\.0)\.(.+)"),
)


def student_under_wan_names(tensors: LazyTensors, source: str) -> LazyTensors:
    """Return a transformer of Diffusers under Wan's names; others as they are.

    Args:
        tensors: without wrappers.
        source: the file, named in errors.

    Raises:
        WeightsError: two tensors end up under one name.
    """
    if STUDENT_ANCHOR not in tensors:
        return tensors
    return renamed(tensors, {name: _student_name(name) for name in tensors}, source)


def vae_under_wan_names(tensors: LazyTensors, source: str) -> LazyTensors:
    """Return a VAE of Diffusers under Wan's names; others as they are.

    Args:
        tensors: without wrappers.
        source: the file, named in errors.

    Raises:
        WeightsError: two tensors end up under one name.
    """
    if VAE_ANCHOR not in tensors:
        return tensors
    return renamed(tensors, {name: _vae_name(name) for name in tensors}, source)


def _student_name(name: str) -> str:
    """Return Wan's name of a transformer's tensor; an unknown one comes back as it is."""
    if name == "scale_shift_table":
        return "head.modulation"
    for theirs, ours in _STUDENT_FRONTS.items():
        if name.startswith(theirs):
            return ours + name.removeprefix(theirs)
    block = _BLOCK.fullmatch(name)
    if block is None:
        return name
    layer, rest = f"blocks.{block[1]}.", block[2]
    if rest == "scale_shift_table":
        return f"{layer}modulation"
    for theirs, ours in _BLOCK_FRONTS.items():
        if rest.startswith(theirs):
            return layer + ours + rest.removeprefix(theirs)
    if match := _PROJECTION.fullmatch(rest):
        projection = f"norm_{match[3]}" if match[3] else match[2].replace("out.0", "o")
        return f"{layer}{_ATTENTION[match[1]]}.{projection}.{match[4]}"
    return name


def _vae_name(name: str) -> str:
    """Return Wan's name of a VAE's tensor; an unknown one comes back as it is."""
    half, _, rest = name.partition(".")
    whole = {"quant_conv": "conv1", "post_quant_conv": "conv2"}
    if half in whole:
        return f"{whole[half]}.{rest}"
    for theirs, ours in _VAE_FRONTS.items():
        if rest.startswith(theirs):
            inner = rest.removeprefix(theirs)
            return f"{half}.{ours}{_resnet_part(inner)}"
    if match := _DOWN.fullmatch(rest):
        return f"{half}.downsamples.{match[1]}.{_resnet_part(match[2])}"
    if match := _UP.fullmatch(rest):
        place = _RESNETS_PER_LEVEL if match[3] else int(match[2])
        number = int(match[1]) * (_RESNETS_PER_LEVEL + 1) + place
        return f"{half}.upsamples.{number}.{_resnet_part(match[4])}"
    return name


def _resnet_part(inner: str) -> str:
    for theirs, ours in _VAE_PARTS.items():
        if inner.startswith(theirs):
            return ours + inner.removeprefix(theirs)
    return inner
