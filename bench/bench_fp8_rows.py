"""Rows quantised by the kernels that make them, at the widths of a block; bound by memory."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType

from torch import Tensor

from shotstream_rt.bench.kernel_case import KernelCase
from shotstream_rt.kernels.reference import fp8_rows as reference

TOLERANCE = 2e-2
"""Numbers that lie between two e4m3 steps go either way where the norms' last bits differ."""


def bench_quantise_rows(case: KernelCase, load_kernel: Callable[[str], ModuleType]) -> None:
    _bench_rows(case, load_kernel, "quantise_rows", case.shapes.dim)


def bench_gelu_quantise(case: KernelCase, load_kernel: Callable[[str], ModuleType]) -> None:
    _bench_rows(case, load_kernel, "gelu_quantise", case.shapes.ffn_dim)


def bench_layer_norm_quantise(case: KernelCase, load_kernel: Callable[[str], ModuleType]) -> None:
    kernel = load_kernel("fp8_rows")
    x = case.normal(1, case.shapes.tokens, case.shapes.dim)
    factor, offset = (case.normal(1, 1, case.shapes.dim) for _ in range(2))
    case.measure(
        lambda: kernel.layer_norm_quantise(x, factor, offset, 1e-6),
        reference.layer_norm_quantise(x, factor, offset, 1e-6),
        bytes_moved=x.nbytes + x.numel(),
        flops=11 * x.numel(),
        tolerance=TOLERANCE,
    )


def bench_gated_residual_norm_quantise(
    case: KernelCase, load_kernel: Callable[[str], ModuleType]
) -> None:
    kernel = load_kernel("fp8_rows")
    x, y = (case.normal(1, case.shapes.tokens, case.shapes.dim) for _ in range(2))
    rows = [case.normal(1, 1, case.shapes.dim) for _ in range(3)]

    def run() -> tuple[Tensor, ...]:
        total, normed = kernel.gated_residual_norm_quantise(x, y, *rows, 1e-6)
        return total, *normed

    total, normed = reference.gated_residual_norm_quantise(x, y, *rows, 1e-6)
    case.measure(
        run,
        (total, *normed),
        bytes_moved=3 * x.nbytes + x.numel(),
        flops=13 * x.numel(),
        tolerance=TOLERANCE,
    )


def _bench_rows(
    case: KernelCase, load_kernel: Callable[[str], ModuleType], name: str, width: int
) -> None:
    kernel = getattr(load_kernel("fp8_rows"), name)
    x = case.normal(1, case.shapes.tokens, width)
    case.measure(
        lambda: kernel(x),
        getattr(reference, name)(x),
        bytes_moved=x.nbytes + x.numel(),
        flops=(3 if name == "quantise_rows" else 12) * x.numel(),
        tolerance=TOLERANCE,
    )
