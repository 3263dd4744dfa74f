"""A block's products: fused projections, both halves of the feed-forward; bound by arithmetic."""

from __future__ import annotations

from torch import nn

from shotstream_rt.bench.kernel_case import KernelCase
from shotstream_rt.kernels.sets.kernel_set import REFERENCE, KernelSet


def bench_qkv(case: KernelCase, kernels: KernelSet) -> None:
    _bench(case, kernels, case.shapes.dim, [case.shapes.dim] * 3)


def bench_ffn_up(case: KernelCase, kernels: KernelSet) -> None:
    _bench(case, kernels, case.shapes.dim, [case.shapes.ffn_dim], gelu=True)


def bench_ffn_down(case: KernelCase, kernels: KernelSet) -> None:
    _bench(case, kernels, case.shapes.ffn_dim, [case.shapes.dim])


def _bench(
    case: KernelCase, kernels: KernelSet, width: int, outputs: list[int], *, gelu: bool = False
) -> None:
    layers = [
        nn.Linear(width, size).to(case.device, case.dtype).requires_grad_(False) for size in outputs
    ]
    wide = [nn.Linear(width, size).to(case.device).requires_grad_(False) for size in outputs]
    for layer, copy in zip(layers, wide, strict=True):
        copy.load_state_dict(layer.state_dict())
    x = case.normal(1, case.shapes.tokens, width)
    apply = kernels.fuse_linear(layers, gelu)
    weights = sum(layer.weight.nbytes for layer in layers)
    case.measure(
        lambda: apply(x),
        REFERENCE.fuse_linear(wide, gelu)(x.float()),
        bytes_moved=x.nbytes + weights + case.shapes.tokens * sum(outputs) * x.element_size(),
        flops=2 * x.numel() * sum(outputs),
    )
