"""Fused projections and the widening half of the feed-forward part; bound by arithmetic."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from shotstream_rt.kernels.kernel_set import REFERENCE, KernelSet

if TYPE_CHECKING:
    from .conftest import Shapes


def bench_qkv(
    kernels: KernelSet,
    shapes: Shapes,
    dtype: torch.dtype,
    device: torch.device,
    normal: Callable[..., Tensor],
    measure: Callable[..., None],
) -> None:
    _bench(kernels, [shapes.dim] * 3, False, shapes, dtype, device, normal, measure)


def bench_ffn_up(
    kernels: KernelSet,
    shapes: Shapes,
    dtype: torch.dtype,
    device: torch.device,
    normal: Callable[..., Tensor],
    measure: Callable[..., None],
) -> None:
    _bench(kernels, [shapes.ffn_dim], True, shapes, dtype, device, normal, measure)


def _bench(
    kernels: KernelSet,
    outputs: list[int],
    gelu: bool,
    shapes: Shapes,
    dtype: torch.dtype,
    device: torch.device,
    normal: Callable[..., Tensor],
    measure: Callable[..., None],
) -> None:
    layers = [
        nn.Linear(shapes.dim, size).to(device, dtype).requires_grad_(False) for size in outputs
    ]
    wide = [nn.Linear(shapes.dim, size).to(device).requires_grad_(False) for size in outputs]
    for layer, copy in zip(layers, wide, strict=True):
        copy.load_state_dict(layer.state_dict())
    x = normal(1, shapes.tokens, shapes.dim, dtype=dtype)
    apply = kernels.fuse_linear(layers, gelu)
    weights = sum(layer.weight.nbytes for layer in layers)
    measure(
        lambda: apply(x),
        REFERENCE.fuse_linear(wide, gelu)(x.float()),
        bytes_moved=x.nbytes + weights + shapes.tokens * sum(outputs) * x.element_size(),
        flops=2 * x.numel() * sum(outputs),
    )
