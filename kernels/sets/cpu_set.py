"""The kernel set ``cpu``: its forms are chosen once, by type, head width and instructions."""

from __future__ import annotations

from dataclasses import replace
from functools import cache, partial

import torch

from ..reference.history_attention import attend_by_spans
from .arena_layout import ArenaLayout
from .kernel_set import TORCH_OPS, KernelSet


def cpu_unavailable_reason() -> str | None:
    """Return why the ``cpu`` set cannot run here, or ``None``."""
    if not torch.backends.mkldnn.is_available():
        return "this torch was built without oneDNN"
    if not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        return "this torch has no packed oneDNN linear"
    return None


@cache
def cpu_kernels(dtype: torch.dtype, head_dim: int) -> KernelSet:
    """Build the set: oneDNN's products or the native core's, and its norms and rotation.

    Args:
        dtype: of all activations, weights and arenas that the set is given.
        head_dim: features per head.
    """
    from ..cpu import instructions, native_steps, products

    attend = products.attention_for(dtype, head_dim)
    kernels = replace(
        TORCH_OPS,
        name="cpu",
        arena=ArenaLayout(head_major=True),
        fuse_linear=products.fuse_linear,
        attention=attend,
        history_attention=partial(attend_by_spans, attend),
        cross_attention=attend,
    )
    if dtype == torch.bfloat16:
        kernels = replace(kernels, rms_norm=native_steps.rms_norm)
    wide = dtype == torch.float32 and head_dim > instructions.NARROW_HEAD
    if head_dim % native_steps.LANES == 0 and (wide or dtype == torch.bfloat16):
        kernels = replace(kernels, qkv_append=native_steps.qkv_append)
    return kernels
