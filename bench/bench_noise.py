"""Addressed noise of one chunk's latents; bound by integer multiplication."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import TYPE_CHECKING

import torch

from shotstream_rt._native import philox_normal
from shotstream_rt.kernels.reference.noise import noise_address

if TYPE_CHECKING:
    from .conftest import Shapes


def bench_addressed_normal(
    load_kernel: Callable[[str], ModuleType],
    shapes: Shapes,
    device: torch.device,
    measure: Callable[..., None],
) -> None:
    count = shapes.frames * shapes.latent_channels * 4 * shapes.frame_tokens
    address, wanted = noise_address(7, 1, 2, device), torch.empty(count)
    philox_normal(wanted.numpy(), 7, 1, 2, 3)
    module = load_kernel("noise")
    measure(
        lambda: module.addressed_normal(address, 3, count),
        wanted.to(device),
        bytes_moved=4 * count,
        flops=30 * count,
    )
