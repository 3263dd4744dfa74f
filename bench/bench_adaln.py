"""Modulated layer norm and gated residual of one chunk; bound by memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from shotstream_rt.kernels.kernel_set import REFERENCE, KernelSet

if TYPE_CHECKING:
    from .conftest import Shapes


def bench_modulated_layer_norm(
    kernels: KernelSet,
    shapes: Shapes,
    dtype: torch.dtype,
    normal: Callable[..., Tensor],
    measure: Callable[..., None],
) -> None:
    x = normal(1, 1, shapes.tokens, shapes.dim, dtype=dtype)
    shift, scale = (normal(1, 1, 1, shapes.dim, dtype=dtype) for _ in range(2))
    measure(
        lambda: kernels.modulated_layer_norm(x, shift, scale, 1e-6),
        REFERENCE.modulated_layer_norm(x.float(), shift.float(), scale.float(), 1e-6),
        bytes_moved=2 * x.nbytes,
        flops=8 * x.numel(),
    )


def bench_gated_residual(
    kernels: KernelSet,
    shapes: Shapes,
    dtype: torch.dtype,
    normal: Callable[..., Tensor],
    measure: Callable[..., None],
) -> None:
    x, y = (normal(1, 1, shapes.tokens, shapes.dim, dtype=dtype) for _ in range(2))
    gate = normal(1, 1, 1, shapes.dim, dtype=dtype)
    measure(
        lambda: kernels.gated_residual(x, y, gate),
        REFERENCE.gated_residual(x.float(), y.float(), gate.float()),
        bytes_moved=3 * x.nbytes,
        flops=2 * x.numel(),
    )
