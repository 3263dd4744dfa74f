"""A frozen set of kernels: which maths a backend runs, chosen once at construction."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec

import torch
from torch import Tensor, nn

from .reference import adaln, dual_attention, kv_append, linear, qk_norm, rope_shot
from .torch_ops import adaln as fused_adaln
from .torch_ops import dual_attention as fused_attention
from .torch_ops import qk_norm as fused_norm


@dataclass(frozen=True, slots=True)
class KernelSet:
    """Callables with the signatures of ``kernels/reference``.

    Attributes:
        name: ``reference``, ``torch``, ``cpu`` or ``triton``.
        head_major: whether attention wants the arena head by head in memory.
    """

    name: str
    head_major: bool
    fuse_linear: Callable[[Sequence[nn.Linear], bool], Callable[[Tensor], Tensor]]
    modulated_layer_norm: Callable[[Tensor, Tensor, Tensor, float], Tensor]
    gated_residual: Callable[[Tensor, Tensor, Tensor], Tensor]
    rms_norm: Callable[[Tensor, Tensor, float], Tensor]
    rotate: Callable[[Tensor, Tensor], Tensor]
    kv_append: Callable[[Tensor, Tensor, Tensor, Tensor, Sequence[int], int], None]
    attention: Callable[[Tensor, Tensor, Tensor, float, Tensor | None], Tensor]


REFERENCE = KernelSet(
    name="reference",
    head_major=False,
    fuse_linear=linear.fuse_linear,
    modulated_layer_norm=adaln.modulated_layer_norm,
    gated_residual=adaln.gated_residual,
    rms_norm=qk_norm.rms_norm,
    rotate=rope_shot.rotate,
    kv_append=kv_append.kv_append,
    attention=dual_attention.dual_attention,
)


TORCH_OPS = KernelSet(
    name="torch",
    head_major=False,
    fuse_linear=linear.fuse_linear,
    modulated_layer_norm=fused_adaln.modulated_layer_norm,
    gated_residual=fused_adaln.gated_residual,
    rms_norm=fused_norm.rms_norm,
    rotate=rope_shot.rotate,
    kv_append=kv_append.kv_append,
    attention=fused_attention.dual_attention,
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

    return KernelSet(
        name="cpu",
        head_major=True,
        fuse_linear=fast_linear.fuse_linear,
        modulated_layer_norm=fused_adaln.modulated_layer_norm,
        gated_residual=fused_adaln.gated_residual,
        rms_norm=fused_norm.rms_norm,
        rotate=rope_shot.rotate,
        kv_append=kv_append.kv_append,
        attention=fast_attention.dual_attention,
    )


def triton_unavailable_reason() -> str | None:
    """Return why the ``triton`` set cannot run here, or ``None``; its interpreter counts."""
    if find_spec("triton") is None:
        return "triton is not installed; pip install shotstream_rt[gpu]"
    if not torch.cuda.is_available() and os.environ.get("TRITON_INTERPRET") != "1":
        return "no NVIDIA GPU that torch can use, and TRITON_INTERPRET is not 1"
    return None


@cache
def triton_kernels() -> KernelSet:
    """Build the set for GPUs: Triton kernels, matrix products by cuBLAS."""
    from . import adaln as gpu_adaln
    from . import dual_attention as gpu_attention
    from . import kv_append as gpu_append
    from . import qk_norm as gpu_norm
    from . import rope_shot as gpu_rope

    return KernelSet(
        name="triton",
        head_major=False,
        fuse_linear=linear.fuse_linear,
        modulated_layer_norm=gpu_adaln.modulated_layer_norm,
        gated_residual=gpu_adaln.gated_residual,
        rms_norm=gpu_norm.rms_norm,
        rotate=gpu_rope.rotate,
        kv_append=gpu_append.kv_append,
        attention=gpu_attention.dual_attention,
    )
