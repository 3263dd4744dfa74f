"""The feed-forward's second product by the library and in whole waves; bound by arithmetic.

The narrower products of 1,536 inputs are here too, which the kernel set leaves to the library: a
record that shows the library behind is a reason to lower ``wave_split.LEAST_SAVED_BLOCKS``.
"""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType

import pytest
import torch.nn.functional as F
from torch import Tensor

from shotstream_rt.bench.kernel_case import KernelCase
from shotstream_rt.kernels.reference import wave_linear as reference


@pytest.mark.parametrize("product", ["ffn_down", "out", "qkv"])
def bench_wave_linear(
    case: KernelCase, load_kernel: Callable[[str], ModuleType], product: str
) -> None:
    """Apply one product in whole waves.

    Args:
        case: see ``KernelCase``.
        load_kernel: gives each form of the kernel in turn.
        product: its name in the block.
    """
    _measure(case, product, load_kernel("wave_linear").wave_linear)


@pytest.mark.parametrize("product", ["ffn_down", "out", "qkv"])
def bench_library(case: KernelCase, product: str) -> None:
    _measure(case, product, F.linear)


def _measure(
    case: KernelCase, product: str, run: Callable[[Tensor, Tensor, Tensor], Tensor]
) -> None:
    shapes = case.shapes
    width = shapes.ffn_dim if product == "ffn_down" else shapes.dim
    columns = 3 * shapes.dim if product == "qkv" else shapes.dim
    x = case.normal(1, shapes.tokens, width)
    weight, bias = case.normal(columns, width) / width**0.5, case.normal(columns)
    case.measure(
        lambda: run(x, weight, bias),
        reference.wave_linear(x.float(), weight.float(), bias.float()),
        bytes_moved=x.nbytes + weight.nbytes + shapes.tokens * columns * x.element_size(),
        flops=2 * x.numel() * columns,
    )
