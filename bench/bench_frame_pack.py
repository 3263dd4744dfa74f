"""Packing of one chunk's frames into bytes; bound by memory."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from shotstream_rt.kernels.reference.frame_pack import frame_pack

if TYPE_CHECKING:
    from .conftest import Shapes


def bench_frame_pack(
    load_kernel: Callable[[str], ModuleType],
    shapes: Shapes,
    dtype: torch.dtype,
    normal: Callable[..., Tensor],
    measure: Callable[..., None],
) -> None:
    # A latent frame is four frames, a token 16 pixels square.
    size = 4 * shapes.frames, 3, 16 * shapes.rows, 16 * shapes.columns
    pixels = normal(*size, dtype=dtype)
    pack = load_kernel("frame_pack").frame_pack
    measure(
        lambda: pack(pixels),
        frame_pack(pixels.float()),
        bytes_moved=pixels.nbytes + pixels.numel(),
        flops=2 * pixels.numel(),
    )
