"""Clean estimate and re-noising of one chunk's latents; bound by memory."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from shotstream_rt.kernels.reference.renoise import renoise, to_x0

if TYPE_CHECKING:
    from .conftest import Shapes

SIGMA = 0.7375886


def bench_to_x0(
    load_kernel: Callable[[str], ModuleType],
    shapes: Shapes,
    dtype: torch.dtype,
    normal: Callable[..., Tensor],
    measure: Callable[..., None],
) -> None:
    x, flow = (normal(*_latent(shapes), dtype=dtype) for _ in range(2))
    module = load_kernel("renoise")
    measure(
        lambda: module.to_x0(x, flow, SIGMA),
        to_x0(x.float(), flow.float(), SIGMA),
        bytes_moved=3 * x.nbytes,
        flops=2 * x.numel(),
    )


def bench_renoise(
    load_kernel: Callable[[str], ModuleType],
    shapes: Shapes,
    dtype: torch.dtype,
    normal: Callable[..., Tensor],
    measure: Callable[..., None],
) -> None:
    x0, noise = (normal(*_latent(shapes), dtype=dtype) for _ in range(2))
    module = load_kernel("renoise")
    measure(
        lambda: module.renoise(x0, noise, SIGMA),
        renoise(x0.float(), noise.float(), SIGMA),
        bytes_moved=3 * x0.nbytes,
        flops=3 * x0.numel(),
    )


def _latent(shapes: Shapes) -> tuple[int, int, int, int, int]:
    return 1, shapes.frames, shapes.latent_channels, 2 * shapes.rows, 2 * shapes.columns
