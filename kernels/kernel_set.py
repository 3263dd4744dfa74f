"""A frozen set of kernels: which maths a backend runs, chosen once at construction."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from importlib.util import find_spec
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from .reference import (
    adaln,
    dual_attention,
    history_attention,
    linear,
    qk_norm,
    qkv_append,
    renoise,
    rope_shot,
)
from .reference.history_attention import Spans, attend_by_spans
from .torch_ops import adaln as fused_adaln
from .torch_ops import dual_attention as fused_attention
from .torch_ops import qk_norm as fused_norm

Rows: TypeAlias = Any
"""What a set's linear layers take: ``[B, T, dim]``, or another form of it (quantised, say) that
only norms and linear layers of the same set know. Nobody else looks inside."""

Norm: TypeAlias = Callable[[Tensor, Tensor, Tensor, float], Rows]
Linear: TypeAlias = Callable[[Rows], Rows]
Attention: TypeAlias = Callable[[Tensor, Tensor, Tensor, float, Tensor | None], Tensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelSet:
    """The steps of a pass, each one call; signatures are those of ``kernels/reference``.

    A block is ``layer_norm -> linear -> qkv_append -> attention -> linear -> gated_residual_norm ->
    linear -> rms_norm -> cross_attention -> linear -> gated_residual_norm -> linear (GELU) ->
    linear -> gated_residual``; a step ends in ``advance``, the last one in ``to_x0``. Another set
    is made with ``dataclasses.replace``. A set with quantised products replaces ``fuse_linear``,
    ``layer_norm`` and ``gated_residual_norm`` together: the norms may give rows in any form that
    its linear layers take. Those also take plain tensors (attention's result, captions); they give
    plain tensors, and with GELU rows for the next of them.

    Attributes:
        name: ``reference``, ``torch``, ``cpu`` or ``triton``, then what was replaced in it, as in
            ``triton+cudnn``.
        head_major: whether attention wants the arena head by head in memory.
        fuse_linear: makes a product of layers that read the same rows, once, at construction.
        layer_norm: norm in front of a block's linear layer.
        gated_residual_norm: residual, and the norm in front of the next linear layer.
        gated_residual: residual at a block's end.
        head_norm: the norm in front of the output layer, which is the model's own: a plain tensor.
        rms_norm: norm of cross-attention's queries and keys.
        rotate: rotation of keys that an arena holds unrotated, as they are read.
        qkv_append: norms and rotation of a projection; keys and values into their arena slots.
        attention: over the valid prefix of an arena; the bias is ``None`` in inference.
        history_attention: over each head's own spans of the prefix, where history is pruned.
        cross_attention: over a caption's keys, with a bias per key.
        to_x0: clean estimate of the last step.
        advance: clean estimate of a step, and the next step's input.
    """

    name: str
    head_major: bool
    fuse_linear: Callable[[Sequence[nn.Linear], bool], Linear]
    layer_norm: Norm
    gated_residual_norm: Callable[
        [Tensor, Tensor, Tensor | None, Tensor, Tensor, float], tuple[Tensor, Rows]
    ]
    gated_residual: Callable[[Tensor, Tensor, Tensor], Tensor]
    head_norm: Norm
    rms_norm: Callable[[Tensor, Tensor, float], Tensor]
    rotate: Callable[[Tensor, Tensor], Tensor]
    qkv_append: Callable[..., Tensor]
    attention: Attention
    history_attention: Callable[[Tensor, Tensor, Tensor, float, Sequence[Spans]], Tensor]
    cross_attention: Attention
    to_x0: Callable[[Tensor, Tensor, Tensor | float], Tensor]
    advance: Callable[[Tensor, Tensor, Tensor, Tensor, int], tuple[Tensor, Tensor]]


REFERENCE = KernelSet(
    name="reference",
    head_major=False,
    fuse_linear=linear.fuse_linear,
    layer_norm=adaln.layer_norm,
    gated_residual_norm=adaln.gated_residual_norm,
    gated_residual=adaln.gated_residual,
    head_norm=adaln.layer_norm,
    rms_norm=qk_norm.rms_norm,
    rotate=rope_shot.rotate,
    qkv_append=qkv_append.qkv_append,
    attention=dual_attention.dual_attention,
    history_attention=history_attention.history_attention,
    cross_attention=dual_attention.dual_attention,
    to_x0=renoise.to_x0,
    advance=renoise.advance,
)


TORCH_OPS = replace(
    REFERENCE,
    name="torch",
    layer_norm=fused_adaln.layer_norm,
    gated_residual_norm=fused_adaln.gated_residual_norm,
    gated_residual=fused_adaln.gated_residual,
    head_norm=fused_adaln.layer_norm,
    rms_norm=fused_norm.rms_norm,
    qkv_append=partial(qkv_append.qkv_append, norm=fused_norm.rms_norm),
    attention=fused_attention.dual_attention,
    history_attention=partial(attend_by_spans, fused_attention.dual_attention),
    cross_attention=fused_attention.dual_attention,
)
"""Torch's own fused calls: runs everywhere, is never the fastest."""


def cpu_unavailable_reason() -> str | None:
    """Return why the ``cpu`` set cannot run here, or ``None``."""
    if not torch.backends.mkldnn.is_available():
        return "this torch was built without oneDNN"
    if not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        return "this torch has no packed oneDNN linear"
    return None


@cache
def cpu_kernels() -> KernelSet:
    """Build the set for CPUs (oneDNN products, fused norms)."""
    from .cpu import dual_attention as fast_attention
    from .cpu import linear as fast_linear

    return replace(
        TORCH_OPS,
        name="cpu",
        head_major=True,
        fuse_linear=fast_linear.fuse_linear,
        attention=fast_attention.dual_attention,
        history_attention=partial(attend_by_spans, fast_attention.dual_attention),
        cross_attention=fast_attention.dual_attention,
    )


def triton_unavailable_reason() -> str | None:
    """Return why the ``triton`` set cannot run here, or ``None``; its interpreter counts."""
    if find_spec("triton") is None:
        return "triton is not installed; pip install shotstream_rt[gpu]"
    if not torch.cuda.is_available() and not interpreting():
        return "no NVIDIA GPU that torch can use, and TRITON_INTERPRET is not 1"
    return None


def gluon_unavailable_reason(device: torch.device, dtype: torch.dtype, head_dim: int) -> str | None:
    """Return why the attention written for sm_90 cannot run here, or ``None``.

    Args:
        device: where tensors are.
        dtype: of queries and results.
        head_dim: features per head.
    """
    if device.type != "cuda" or not torch.cuda.is_available():
        return f"gluon attention needs an NVIDIA GPU that torch can use, not {device.type}"
    if find_spec("triton") is None or find_spec("triton.experimental.gluon") is None:
        return "gluon attention needs triton 3.6; pip install shotstream_rt[gpu]"
    major, minor = torch.cuda.get_device_capability(device)
    if (major, minor) != (9, 0):
        return f"gluon attention is for sm_90, not sm_{major}{minor}"
    if dtype != torch.bfloat16:
        return f"gluon attention takes bfloat16, not {str(dtype)[6:]}"
    if head_dim != 128:
        return f"gluon attention takes heads of 128, not {head_dim}"
    return None


def interpreting() -> bool:
    """Return whether Triton runs its kernels on the host."""
    return os.environ.get("TRITON_INTERPRET") == "1"


@cache
def triton_kernels() -> KernelSet:
    """Build the set for GPUs: Triton kernels, matrix products by cuBLAS."""
    from . import adaln as gpu_adaln
    from . import dual_attention as gpu_attention
    from . import history_attention as gpu_history
    from . import linear as gpu_linear
    from . import qk_norm as gpu_norm
    from . import qkv_append as gpu_append
    from . import renoise as gpu_renoise
    from . import rope_shot as gpu_rope

    return replace(
        REFERENCE,
        name="triton",
        fuse_linear=gpu_linear.fuse_linear,
        layer_norm=gpu_adaln.layer_norm,
        gated_residual_norm=gpu_adaln.gated_residual_norm,
        gated_residual=gpu_adaln.gated_residual,
        head_norm=gpu_adaln.layer_norm,
        rms_norm=gpu_norm.rms_norm,
        rotate=gpu_rope.rotate,
        qkv_append=gpu_append.qkv_append,
        attention=gpu_attention.dual_attention,
        history_attention=gpu_history.history_attention,
        cross_attention=gpu_attention.dual_attention,
        to_x0=gpu_renoise.to_x0,
        advance=gpu_renoise.advance,
    )
