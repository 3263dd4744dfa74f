"""Addressed noise of one chunk's latents; bound by integer multiplication."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from types import ModuleType

import torch

from shotstream_rt._native import philox_normal
from shotstream_rt.bench.kernel_case import KernelCase
from shotstream_rt.kernels.reference.noise import noise_address


def bench_addressed_normal(case: KernelCase, load_kernel: Callable[[str], ModuleType]) -> None:
    count = prod(case.shapes.latent_shape)
    address, wanted = noise_address(7, 1, 2, case.device), torch.empty(count)
    philox_normal(wanted.numpy(), 7, 1, 2, 3)
    module = load_kernel("noise")
    case.measure(
        lambda: module.addressed_normal(address, 3, count),
        wanted.to(case.device),
        bytes_moved=4 * count,
        flops=30 * count,
    )
