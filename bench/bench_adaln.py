"""Modulated layer norm, gated residual and both in one, of one chunk; bound by memory."""

from __future__ import annotations

from shotstream_rt.bench.kernel_case import KernelCase
from shotstream_rt.kernels.sets.kernel_set import REFERENCE, KernelSet


def bench_layer_norm(case: KernelCase, kernels: KernelSet) -> None:
    x = case.normal(1, case.shapes.tokens, case.shapes.dim)
    factor, offset = (case.normal(1, 1, case.shapes.dim) for _ in range(2))
    case.measure(
        lambda: kernels.layer_norm(x, factor, offset, 1e-6),
        REFERENCE.layer_norm(x.float(), factor.float(), offset.float(), 1e-6),
        bytes_moved=2 * x.nbytes,
        flops=8 * x.numel(),
    )


def bench_gated_residual(case: KernelCase, kernels: KernelSet) -> None:
    x, y = (case.normal(1, case.shapes.tokens, case.shapes.dim) for _ in range(2))
    gate = case.normal(1, 1, case.shapes.dim)
    case.measure(
        lambda: kernels.gated_residual(x, y, gate),
        REFERENCE.gated_residual(x.float(), y.float(), gate.float()),
        bytes_moved=3 * x.nbytes,
        flops=2 * x.numel(),
    )


def bench_gated_residual_norm(case: KernelCase, kernels: KernelSet) -> None:
    x, y = (case.normal(1, case.shapes.tokens, case.shapes.dim) for _ in range(2))
    rows = [case.normal(1, 1, case.shapes.dim) for _ in range(3)]
    wide = [z.float() for z in (x, y, *rows)]
    case.measure(
        lambda: kernels.gated_residual_norm(x, y, *rows, 1e-6),
        REFERENCE.gated_residual_norm(*wide, 1e-6),
        bytes_moved=4 * x.nbytes,
        flops=10 * x.numel(),
    )
