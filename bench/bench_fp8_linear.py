"""A block's products on e4m3 rows; bound by arithmetic at twice the rate of bfloat16."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType

import pytest
from torch import nn

from shotstream_rt.bench.kernel_case import KernelCase
from shotstream_rt.kernels.reference import fp8_linear as reference
from shotstream_rt.kernels.reference.fp8_rows import quantise_rows

TOLERANCE = 2e-2
"""Sums on tensor cores keep fewer bits than float32."""


@pytest.mark.parametrize("product", ["qkv", "out", "ffn_up", "ffn_down"])
def bench_fp8_linear(
    case: KernelCase, load_kernel: Callable[[str], ModuleType], product: str
) -> None:
    """Apply one of a block's products to rows of e4m3.

    Args:
        case: see ``KernelCase``.
        load_kernel: gives each form of the kernel in turn.
        product: its name in the block; ``qkv`` is three products in one.
    """
    shapes = case.shapes
    width = shapes.ffn_dim if product == "ffn_down" else shapes.dim
    outputs = {"qkv": [shapes.dim] * 3, "ffn_up": [shapes.ffn_dim]}.get(product, [shapes.dim])
    layers = [
        nn.Linear(width, size).to(case.device, case.dtype).requires_grad_(False) for size in outputs
    ]
    rows = quantise_rows(case.normal(1, shapes.tokens, width))
    apply = load_kernel("fp8_linear").fuse_linear(layers)
    results = shapes.tokens * sum(outputs)
    case.measure(
        lambda: apply(rows),
        reference.fuse_linear([layer.float() for layer in layers])(rows),
        bytes_moved=rows.values.numel() + width * sum(outputs) + results * case.dtype.itemsize,
        flops=2 * width * results,
        tolerance=TOLERANCE,
    )
